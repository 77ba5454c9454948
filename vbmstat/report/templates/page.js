"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const rows = [...body.rows];
    const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
    const order = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
    rows.sort((one, two) => {
      const [a, b] = [value(one), value(two)];
      if (a === "" || b === "") return (a === "") - (b === "");  // missing values last
      return down ? order(b, a) : order(a, b);
    });
    body.append(...rows);
  }));
}
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", () => {
    const text = document.getElementById(button.dataset.of);
    getSelection().selectAllChildren(text);
    navigator.clipboard?.writeText(text.innerText).then(() => { button.textContent = "Copied"; }, () => {});
  });
}
