(function () {
  "use strict";
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  // Text and lines of the charts take the page's ink, which differs by theme.
  function paint() {
    var style = getComputedStyle(document.documentElement);
    var ink = style.getPropertyValue("--ink").trim();
    var soft = style.getPropertyValue("--soft").trim();
    var panel = style.getPropertyValue("--panel").trim();
    document.querySelectorAll(".plotly-graph-div").forEach(function (chart) {
      Plotly.relayout(chart, {
        "font.color": soft,
        "hoverlabel.bgcolor": panel,
        "hoverlabel.font.color": ink
      });
      chart.data.forEach(function (trace, index) {
        if (trace.meta === "foreground") {
          Plotly.restyle(chart, {"line.color": ink, "marker.line.color": ink}, [index]);
        }
      });
    });
  }
  window.addEventListener("load", paint);
  dark.addEventListener("change", paint);
})();
