"use strict";
// The rows stand in columns, of which repeated values are stored once: as numbers of values, or runs
// of these, (number, length) one behind another. Only the rows in sight are in the document. Names
// are hostile input: they become text and nothing else.
const ROW_HEIGHT = 24, SPARE = 12;
const data = JSON.parse(document.getElementById("data").textContent);
const columns = data.columns.map((column) =>
  "value" in column ? Array(data.length).fill(column.value)
    : column.runs ? expanded(column)
    : column.index ? column.index.map((number) => column.values[number])
    : column.type === "address" ? column.values.map((value) => value === null ? null : BigInt(value))
    : column.values);
const titles = data.columns.map((column) => column.title);
const frame = document.getElementById("frame"), body = document.getElementById("rows");
const search = document.getElementById("search"), count = document.getElementById("count");
let shown = Array.from({ length: data.length }, (_, number) => number);
let sorted = { column: -1, descending: false };

function expanded(column) {
  const values = [];
  for (let at = 0; at < column.runs.length; at += 2) {
    for (let left = column.runs[at + 1]; left; left--) values.push(column.values[column.runs[at]]);
  }
  return values;
}

function textOf(column, row) {
  const value = columns[column][row];
  if (value === null || value === undefined) return "";
  if (data.columns[column].base) {
    return "0x" + (BigInt(data.columns[column].base) + value).toString(16);
  }
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

function render() {
  const first = Math.max(0, Math.floor(frame.scrollTop / ROW_HEIGHT) - SPARE);
  const last = Math.min(shown.length, first + Math.ceil(frame.clientHeight / ROW_HEIGHT) + 2 * SPARE);
  const rows = document.createDocumentFragment();
  rows.append(spacer(first * ROW_HEIGHT));
  for (let place = first; place < last; place++) rows.append(rowOf(shown[place]));
  rows.append(spacer((shown.length - last) * ROW_HEIGHT));
  body.replaceChildren(rows);
}

function spacer(height) {
  const row = document.createElement("tr"), cell = document.createElement("td");
  cell.colSpan = titles.length;
  cell.style.height = cell.style.lineHeight = height + "px";
  cell.style.padding = "0";
  row.append(cell);
  row.hidden = height === 0;
  return row;
}

function rowOf(number) {
  const row = document.createElement("tr");
  data.columns.forEach((column, place) => {
    const cell = document.createElement("td");
    cell.textContent = cell.title = textOf(place, number);
    if (column.type === "address") cell.className = "number";
    if (column.type === "code") cell.className = "code";
    if (column.type === "state") cell.className = cell.textContent;
    row.append(cell);
  });
  return row;
}

function select() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = data.columns.map((column, place) => place).filter((place) => data.columns[place].search);
  shown = [];
  for (let row = 0; row < data.length; row++) {
    const text = wanted.map((place) => textOf(place, row)).join("\n").toLowerCase();
    if (words.every((word) => text.includes(word))) shown.push(row);
  }
  sort();
}

function sort() {
  const { column, descending } = sorted;
  if (column >= 0) {
    const values = columns[column], sign = descending ? -1 : 1;
    shown.sort((one, other) => sign * compare(values[one], values[other]) || one - other);
  }
  count.textContent = `${shown.length.toLocaleString("en")} of ${data.length.toLocaleString("en")} rows`;
  frame.scrollTop = 0;
  render();
}

function compare(one, other) {
  if (one === null || other === null) return (one === null) - (other === null);
  return one < other ? -1 : one > other ? 1 : 0;
}

const heads = Array.from(document.querySelectorAll("thead th"));
heads.forEach((head, column) => {
  head.tabIndex = 0;
  const toggle = () => {
    sorted = { column, descending: sorted.column === column && !sorted.descending };
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
    if (!sorted.descending && sorted.column === column) shown.sort((one, other) => one - other);
    sort();
  };
  head.addEventListener("click", toggle);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
});
let pending = 0;
search.addEventListener("input", () => { clearTimeout(pending); pending = setTimeout(select, 80); });
frame.addEventListener("scroll", () => requestAnimationFrame(render));
addEventListener("resize", render);
sort();
