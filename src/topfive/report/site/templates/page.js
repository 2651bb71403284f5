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
    var keyed = rows.map(function (row, place) { return [key(row, column), place, row]; });
    keyed.sort(function (a, b) {
      if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null) || a[1] - b[1];
      var order = a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0;
      return (down ? -order : order) || a[1] - b[1];
    });
    keyed.forEach(function (one) { body.appendChild(one[2]); });
  }

  Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.appendChild(button);
    button.addEventListener("click", function () {
      var down = head.getAttribute("aria-sort") === "ascending";
      Array.prototype.forEach.call(table.tHead.rows[0].cells, function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(column, down);
    });
  });
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("change", filter);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("reset", function () { window.setTimeout(filter, 0); });
  filter();
})();
