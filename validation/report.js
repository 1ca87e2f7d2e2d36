"use strict";
// Makes tables of class `sifted` sortable, searchable and filterable; without this the page says the same.
document.addEventListener("DOMContentLoaded", () => {
  const value = (row, index) => row.cells[index].dataset.value;

  const order = (index, numeric, sign) => (a, b) => {
    const x = value(a, index);
    const y = value(b, index);
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (numeric ? Number(x) - Number(y) : x < y ? -1 : x > y ? 1 : 0);
  };

  const sortable = (table, rows) => {
    const heads = Array.from(table.tHead.rows[0].cells);
    const sort = (head, index) => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      table.tBodies[0].append(...Array.from(rows).sort(order(index, head.dataset.sort === "number", sign)));
    };
    heads.forEach((head, index) => {
      if (!head.dataset.sort) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(head, index));
      head.append(button);
    });
  };

  const siftable = (tools, rows) => {
    const search = tools.querySelector("input[type=search]");
    const choices = Array.from(tools.querySelectorAll("select"));
    const flags = Array.from(tools.querySelectorAll("input[type=checkbox]"));
    const count = tools.querySelector(".count");
    const kept = (row, wanted) =>
      row.cells[0].textContent.toLowerCase().includes(wanted) &&
      choices.every((c) => !c.value || row.dataset[c.dataset.choice] === c.value) &&
      flags.every((f) => !f.checked || f.dataset.flag in row.dataset);
    const sift = () => {
      const wanted = search.value.trim().toLowerCase();
      rows.forEach((row) => (row.hidden = !kept(row, wanted)));
      const shown = rows.filter((row) => !row.hidden).length;
      const what = rows.length === 1 ? count.dataset.what.replace(/s$/, "") : count.dataset.what;
      count.textContent = shown === rows.length ? `${shown} ${what}` : `${shown} of ${rows.length} ${what}`;
    };
    const clear = () => {
      search.value = "";
      choices.forEach((c) => (c.value = ""));
      flags.forEach((f) => (f.checked = false));
      sift();
    };
    tools.addEventListener("input", sift);
    tools.hidden = false;
    sift();

    // A row is picked for a comparison by the box in it.
    rows.forEach((row) => {
      const box = row.querySelector("input[data-pick]");
      if (!box) return;
      box.closest("label").hidden = false;
      box.addEventListener("input", () => {
        if (box.checked) row.dataset.picked = "";
        else delete row.dataset.picked;
        sift();
      });
    });

    // A link to a row that is hidden would lead nowhere.
    window.addEventListener("hashchange", () => {
      const target = document.getElementById(location.hash.slice(1));
      if (!target || !target.hidden || !rows.includes(target)) return;
      clear();
      target.scrollIntoView();
    });
  };

  for (const table of document.querySelectorAll("table.sifted")) {
    const rows = Array.from(table.tBodies[0].rows);
    sortable(table, rows);
    table.classList.add("scripted");
    const tools = document.querySelector(`[data-sifts="${table.id}"]`);
    if (tools) siftable(tools, rows);
  }
});
