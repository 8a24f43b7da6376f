// Runs before the page is shown, so that a chosen colour scheme does not flash.
(function () {
  "use strict";
  try {
    var chosen = localStorage.getItem("ojs-theme");
    if (chosen) document.documentElement.dataset.theme = chosen;
  } catch (_) { /* storage is blocked: the system's colours are used */ }
})();
