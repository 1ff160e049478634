(function () {
  "use strict";
  var form = document.getElementById("filters");
  var rows = Array.from(document.querySelectorAll("#results tbody tr"));
  var note = document.getElementById("shown");
  if (!form || !rows.length) return;
  var selects = Array.from(form.querySelectorAll("select"));
  function percent(share) {
    return share >= 1 ? "100 %" : (share * 100).toPrecision(3) + " %";
  }
  function apply() {
    var best = 0, count = 0;
    rows.forEach(function (row) {
      row.hidden = selects.some(function (select) {
        return select.value && row.getAttribute("data-" + select.name) !== select.value;
      });
      if (!row.hidden) {
        count += 1;
        best = Math.max(best, Number(row.getAttribute("data-rate")));
      }
    });
    rows.forEach(function (row) {
      var share = best > 0 ? Number(row.getAttribute("data-rate")) / best : 0;
      var text = row.querySelector(".share"), bar = row.querySelector(".bar span");
      if (text && share > 0) text.textContent = percent(share);
      if (bar) bar.style.width = share * 100 + "%";
    });
    note.textContent = count === rows.length ? "All " + count + " rows are shown."
      : count + " of " + rows.length + " rows are shown; shares are of the fastest of them.";
    var chosen = selects.filter(function (select) { return select.value; });
    var hash = chosen.map(function (select) { return select.name + "=" + select.value; }).join("&");
    if (hash !== location.hash.slice(1)) location.replace("#" + hash);
  }
  function restore() {
    var chosen = new URLSearchParams(location.hash.slice(1));
    selects.forEach(function (select) {
      var value = chosen.get(select.name);
      var known = Array.from(select.options).some(function (option) { return option.value === value; });
      select.value = known ? value : "";
    });
    apply();
  }
  form.hidden = false;
  selects.forEach(function (select) { select.addEventListener("change", apply); });
  form.addEventListener("reset", function () { setTimeout(apply, 0); });
  window.addEventListener("hashchange", restore);
  if (location.hash.length > 1) restore();
})();
