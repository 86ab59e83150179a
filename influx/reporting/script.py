"""The one script of the HTML report, offline: sorts and searches tables and instances, opens what links and paper need.

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
  const searchable = (found, what, bar, state) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "search";
    box.autocomplete = "off";
    label.append(`Search ${what} `, box);
    bar.prepend(label);
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
      let shown = 0;
      for (const one of found) {
        const text = one.textContent.toLowerCase();
        one.hidden = !words.every(word => text.includes(word));
        shown += !one.hidden;
      }
      state.textContent = words.length ? `${shown} of ${found.length} ${what}` : "";
    });
  };
  const ordered = (found, bar, say) => {
    const label = document.createElement("label"), choice = document.createElement("select");
    choice.append(...["id", "label", "influence"].map(key => new Option(key)));
    label.append("Sort by ", choice);
    bar.append(label);
    choice.addEventListener("change", () => {
      const key = choice.value, sign = key === "influence" ? -1 : 1, end = document.createComment("");
      found[0].parentElement.insertBefore(end, found.at(-1).nextSibling);
      found.sort((a, b) => compare(a.dataset[key], b.dataset[key], sign));
      end.before(...found);
      end.remove();
      say(`sorted by ${key}`);
    });
  };
  const controls = before => {
    const bar = document.createElement("div"), state = document.createElement("output");
    bar.className = "controls";
    bar.append(state);
    before.before(bar);
    return [bar, state];
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const [bar, state] = controls(table.parentElement), rows = [...table.tBodies[0].rows];
    sortable(table, text => { state.textContent = text; });
    if (rows.length > 7) searchable(rows, "rows", bar, state);
  }
  for (const section of document.querySelectorAll("section")) {
    const found = [...section.children].filter(one => one.classList.contains("instance"));
    if (found.length < 3) continue;
    const [bar, state] = controls(found[0]);
    searchable(found, "test instances", bar, state);
    ordered(found, bar, text => { state.textContent = text; });
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
