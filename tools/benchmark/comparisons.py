"""What is compared with what, by names to choose from."""

from collections.abc import Callable, Collection, Iterator

from tools.benchmark import programs, recording, reporting, switching, tracing
from tools.benchmark.comparison import Comparison
from tools.benchmark.setting import Setting

COMPARISONS: dict[str, Callable[[Setting], Iterator[Comparison]]] = {
    "batch": recording.batch,
    "one-folder": recording.one_folder,
    "object": recording.one_object,
    "report": reporting.modules,
    "lines": reporting.source_lines,
    "large": recording.large_object,
    "report-large": reporting.large,
    "switch-linked": switching.linked,
    "switch-object": switching.one_object,
    "switch-tiny": switching.tiny,
    "off": programs.switched_off,
    "running": programs.running,
    "tracing": tracing.comparisons,
}


def compare(setting: Setting, names: Collection[str]) -> Iterator[Comparison]:
    """The comparisons of these names, as soon as each is made; its subject begins with its name."""
    for name in names:
        for row in COMPARISONS[name](setting):
            yield row._replace(subject=f"{name}: {row.subject}")
