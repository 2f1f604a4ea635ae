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

  function sums(steps) {
    var total = 0;
    return steps.map(function (step) { total += step; return total; });
  }

  // The value at `moment` of the broken line through (edges, values).
  function at(edges, values, moment) {
    var low = 0, high = edges.length - 1;
    if (high < 0 || moment <= edges[low]) return 0;
    if (moment >= edges[high]) return values[high];
    while (high - low > 1) {
      var middle = (low + high) >> 1;
      if (edges[middle] <= moment) low = middle; else high = middle;
    }
    var share = (moment - edges[low]) / (edges[high] - edges[low]);
    return values[low] + share * (values[high] - values[low]);
  }

  // Cut the part of the timeline that is shown into equal spans.
  function cut(chart, begin, end) {
    var xs = [], ys = [], traces = [], length = (end - begin) / TIMELINE.bins;
    chart.data.forEach(function (trace, index) {
      if (!Array.isArray(trace.meta)) return;
      var module = TIMELINE.modules[trace.meta[0]], values = module.before[trace.meta[1]];
      var x = [], y = [], before = at(module.edges, values, begin);
      for (var bin = 0; bin < TIMELINE.bins; bin++) {
        var after = at(module.edges, values, begin + (bin + 1) * length);
        x.push((begin + bin * length) / TIMELINE.cycles_per_ms);
        y.push(100 * (after - before) / length);
        before = after;
      }
      xs.push(x);
      ys.push(y);
      traces.push(index);
    });
    Plotly.restyle(chart, {x: xs, y: ys}, traces);
  }

  function watch() {
    var chart = document.getElementById("chart-timeline");
    Object.keys(TIMELINE.modules).forEach(function (name) {
      var module = TIMELINE.modules[name];
      module.edges = sums(module.edges);
      Object.keys(module.before).forEach(function (kind) {
        module.before[kind] = sums(module.before[kind]);
      });
    });
    var whole = chart.layout.xaxis.range.map(function (ms) { return ms * TIMELINE.cycles_per_ms; });
    chart.on("plotly_relayout", function (change) {
      var keys = Object.keys(change).filter(function (key) { return key.indexOf("xaxis") === 0; });
      if (!keys.length) return;
      var range = chart.layout.xaxis.range.map(function (ms) { return ms * TIMELINE.cycles_per_ms; });
      cut(chart, Math.max(whole[0], range[0]), Math.min(whole[1], range[1]));
    });
  }

  window.addEventListener("load", function () { paint(); watch(); });
  dark.addEventListener("change", paint);
})();
