// The table of recipes: a field that searches all columns, and menus for paper and data. Without a script it is a plain table.
document.addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector(".recipes");
  const table = box && box.querySelector("table");
  if (!table) return;
  const names = [...table.querySelectorAll("thead th")].map((cell) => cell.innerText.trim());
  const rows = [...table.querySelectorAll("tbody tr")];
  rows.forEach((row) => {
    [...row.cells].forEach((cell, k) => k && cell.setAttribute("data-name", names[k]));
    row.words = row.innerText.toLowerCase();
  });

  const tools = document.createElement("div");
  tools.className = "recipes-tools";
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "Search: classmix, gta5 table 1, single-level …";
  field.setAttribute("aria-label", "Search recipes");
  const menu = (column, all) => {
    const element = document.createElement("select");
    element.setAttribute("aria-label", all);
    const values = new Set(rows.map((row) => row.cells[column].innerText.trim()));
    element.append(new Option(all, ""), ...[...values].map((value) => new Option(value, value)));
    element.column = column;
    return element;
  };
  const menus = [menu(1, "all papers"), menu(3, "all data")];
  const scored = document.createElement("select");
  scored.setAttribute("aria-label", "scores");
  scored.append(new Option("with or without scores", ""), new Option("published", "4"), new Option("measured", "5"));
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  tools.append(field, ...menus, scored, count);
  box.prepend(tools);

  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row) => {
      const fits = words.every((word) => row.words.includes(word))
        && menus.every((m) => !m.value || row.cells[m.column].innerText.trim() === m.value)
        && (!scored.value || row.cells[Number(scored.value)].innerText.trim() !== "–");
      row.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${rows.length}`;
  };
  field.value = new URLSearchParams(location.search).get("q") || "";
  [field, ...menus, scored].forEach((element) => element.addEventListener("input", show));
  show();
});
