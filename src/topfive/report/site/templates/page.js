(function () {
  "use strict";
  var table = document.getElementById("overview");
  var form = document.getElementById("filters");
  if (!table || !form) return;
  var body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows);
  var words = rows.map(function (row) {
    return Array.prototype.slice.call(row.cells, 0, 4).map(function (c) { return c.textContent; }).join(" ").toLowerCase();
  });
  var search = document.getElementById("search");
  var chosen = Array.prototype.slice.call(form.querySelectorAll("select"));
  var shown = document.getElementById("shown");
  var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
  var sorted = null;

  function filter() {
    var wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    var count = 0;
    rows.forEach(function (row, number) {
      var there = wanted.every(function (word) { return words[number].indexOf(word) >= 0; }) &&
        chosen.every(function (one) { return !one.value || row.dataset[one.dataset.by] === one.value; });
      row.hidden = !there;
      count += there ? 1 : 0;
    });
    shown.textContent = count + " of " + rows.length + " cases";
  }

  // What is chosen stands behind the # of the address: it survives a reload, the way back, and a copied link.
  function remember() {
    var said = new URLSearchParams();
    if (search.value) said.set("search", search.value);
    chosen.forEach(function (one) { if (one.value) said.set(one.dataset.by, one.value); });
    if (sorted) said.set("sort", (sorted.down ? "-" : "") + heads[sorted.column].textContent);
    var address = said.toString();
    try {
      window.history.replaceState(null, "", address ? "#" + address : window.location.pathname + window.location.search);
    } catch (refused) {
      if (address) window.location.replace("#" + address);
    }
  }

  function recall() {
    var said = new URLSearchParams(window.location.hash.slice(1));
    search.value = said.get("search") || "";
    chosen.forEach(function (one) {
      one.value = said.get(one.dataset.by) || "";
      if (one.selectedIndex < 0) one.value = "";
    });
    var wanted = said.get("sort") || "";
    heads.forEach(function (head, column) {
      if (head.textContent === wanted) sort(column, false);
      if ("-" + head.textContent === wanted) sort(column, true);
    });
    filter();
  }

  function key(row, column) {
    var cell = row.cells[column];
    var raw = cell.dataset.v;
    if (raw === undefined) {
      var text = cell.textContent.trim();
      return text === "-" ? null : text.toLowerCase();
    }
    var number = Number(raw);
    return isNaN(number) ? raw : number;
  }

  function sort(column, down) {
    heads.forEach(function (head) { head.removeAttribute("aria-sort"); });
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    sorted = { column: column, down: down };
    var keyed = rows.map(function (row, place) { return [key(row, column), place, row]; });
    keyed.sort(function (a, b) {
      if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null) || a[1] - b[1];
      var order = a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0;
      return (down ? -order : order) || a[1] - b[1];
    });
    keyed.forEach(function (one) { body.appendChild(one[2]); });
  }

  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.appendChild(button);
    button.addEventListener("click", function () {
      sort(column, head.getAttribute("aria-sort") === "ascending");
      remember();
    });
  });
  function changed() {
    filter();
    remember();
  }
  form.hidden = false;
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("reset", function () { window.setTimeout(changed, 0); });
  // The browser may fill in the form once more after this script: pageshow comes later.
  window.addEventListener("pageshow", recall);
  window.addEventListener("hashchange", recall);
  recall();
})();
