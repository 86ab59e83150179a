"""The one script of the HTML report, which works offline: sorts and searches tables, opens what links and paper need.

The page's policy names this text by its hash, so that nothing else on the page can run.
"""

import base64
import hashlib

SCRIPT = """
"use strict";
(() => {
  const number = text => {
    const plain = text.trim().replace(/[,~]/g, "");
    return /^[+-]?\\d/.test(plain) ? parseFloat(plain) : NaN;
  };
  const compare = (a, b, sign) => {
    const x = number(a), y = number(b);
    if (!isNaN(x) && !isNaN(y)) return sign * (x - y);
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1; // words and blanks stay below numbers
    return sign * a.localeCompare(b, undefined, { numeric: true });
  };
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell ? cell.dataset.sort ?? cell.textContent : "";
  };
  const sortable = (table, say) => {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const falling = header.getAttribute("aria-sort") === "descending";
        const numbers = [...table.tBodies[0].rows].some(row => !isNaN(number(value(row, column))));
        const up = header.hasAttribute("aria-sort") ? falling : !numbers; // numbers fall first
        headers.forEach(other => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => compare(value(a, column), value(b, column), up ? 1 : -1));
        table.tBodies[0].append(...rows);
        say(`sorted by ${button.textContent}, ${up ? "ascending" : "descending"}`);
      });
    });
  };
  const searchable = (table, before, state) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "search";
    box.autocomplete = "off";
    label.append("Search rows ", box);
    before.prepend(label);
    const rows = [...table.tBodies[0].rows];
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
        shown += !row.hidden;
      }
      state.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
    });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const bar = document.createElement("div"), state = document.createElement("output");
    bar.className = "controls";
    bar.append(state);
    table.parentElement.before(bar);
    sortable(table, text => { state.textContent = text; });
    if (table.tBodies[0].rows.length > 7) searchable(table, bar, state);
  }
  const open = element => {
    for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  const follow = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target) { open(target); target.scrollIntoView(); }
  };
  addEventListener("hashchange", follow);
  follow();
  let opened = [];
  addEventListener("beforeprint", () => {
    const closed = [...document.querySelectorAll("details:not([open])")];
    opened = closed.filter(one => one.querySelectorAll("tr").length <= 40); // long tables and runs as they are seen
    opened.forEach(one => { one.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach(one => { one.open = false; }));
})();
"""

HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
