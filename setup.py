"""Compile the modules that take the time, where that is asked for: RECORDMCOUNT_COMPILED=1.

Without it this does nothing: the project is plain Python, and pyproject.toml says all of it. With
it mypyc makes extension modules of what records objects, which stand beside the sources and are
preferred by `import`; `tools/build` makes both builds. Of what reports and switches, what decodes
is compiled: the others spend their time in loops that Python has in C already, and were no faster.
"""

import os
import sys

from setuptools import Extension, setup

# What others use stands behind them: of modules that mypyc compiles as one group, mypy looks at the
# last first, and of a constant in one that it has not seen it says that it cannot tell its type.
MODULES = """
    record/file record/image_plan record/doubts record/plan record/new_sections
    record/kernel_objects
    sites/calls sites/boundaries
    elf/open elf/object
    mcount_loc columns x86_plain x86_length x86_functions x86
"""
ASKED = os.environ.get("RECORDMCOUNT_COMPILED") == "1"
# pip asks first what is needed, and only then is mypy there.
BUILDS = not {"egg_info", "dist_info"} & {*sys.argv}


def extensions() -> list[Extension]:
    """Have mypyc translate the modules; mypy is there then, by setup_requires."""
    from mypyc.build import mypycify

    paths = [f"recordmcount/{name}.py" for name in MODULES.split()]
    # Our dependencies need not be there, and what is there of them takes minutes to check.
    checks = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent",
              "--no-warn-unused-ignores"]  # fmt: skip
    made: list[Extension] = mypycify(
        [*checks, *paths], opt_level="2", debug_level="0", group_name="recordmcount.compiled"
    )
    for each in made:
        each.include_dirs.insert(0, "tools/mypyc")
        each.extra_link_args.append("-s")  # symbols would only be read from the disk
    return made


setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    setup_requires=["mypy==1.19.1"] if ASKED else [],
    ext_modules=extensions() if ASKED and BUILDS else [],
)
