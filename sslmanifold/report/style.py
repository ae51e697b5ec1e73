"""How the report's page looks and what its script does: light and dark, on a phone and on a desk."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5d6670; --line: #e3e6ea; --warn: #8a3b00; --good: #00704f;
        --bad: #b00020; --late: #8a6100; --link: #0072B2; --card: #ffffff; --page: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3abb5; --line: #363b42; --warn: #ffb07c; --good: #4fd1a1; --bad: #ff8a94;
          --late: #e8c060; --link: #6cb8ec; --card: #1e2126; --page: #14161a; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); margin: 0;
       background: var(--page); }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.5rem; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 34px 0 6px; }
p.lead { color: var(--soft); margin: 0 0 10px; max-width: 75ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.scroll { overflow-x: auto; }
.tall { max-height: 560px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; background: var(--card); position: sticky; top: 0; z-index: 1; }
table.sortable th { cursor: pointer; }
table.sortable th::after { content: " \\2195"; opacity: 0.5; }
table.sortable th[aria-sort=ascending]::after { content: " \\2191"; opacity: 1; }
table.sortable th[aria-sort=descending]::after { content: " \\2193"; opacity: 1; }
td.wrap { white-space: normal; min-width: 220px; }
table.means td:first-child { white-space: normal; min-width: 130px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 7px; }
ul { margin: 0; padding-left: 20px; }
.warn { border-left: 4px solid #D55E00; color: var(--warn); }
.well { border-left: 4px solid #009E73; color: var(--good); }
.failed, .interrupted, .killed { color: var(--bad); } .diverged, .stopped { color: var(--late); }
.completed { color: var(--good); }
.chart { width: 100%; height: 380px; } a { color: var(--link); }
caption { text-align: left; font-weight: 600; padding: 4px 0; }
footer { color: var(--soft); font-size: 0.82rem; margin-top: 40px; }
@media (max-width: 600px) {
  main { padding: 14px 10px 40px; } .card { padding: 8px; } th, td { padding: 4px 7px; }
  table.sortable td:first-child, table.sortable th:first-child { position: sticky; left: 0; background: var(--card); }
  table.sortable th:first-child { z-index: 2; }
}
"""

# the plotting library is a third as large compressed; browsers since 2023 unpack it
LIBRARY = """
const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
const library = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text()
  .then((text) => {
    const script = document.createElement("script");
    script.textContent = text;
    document.head.append(script);
  });
"""

SCRIPT = """
const narrow = window.innerWidth < 600;
const scheme = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// what is drawn in black, the theory, takes the colour of the text; constraints keep theirs
const inked = (value) => value === "#000000" ? colour("--ink") : value;
const draw = async (div) => {
  await library;
  const chart = JSON.parse(document.getElementById(div.dataset.chart).textContent);
  if (narrow) { chart.layout.margin = {l: 48, r: 6, t: 36, b: 36}; chart.layout.font.size = 11; }
  Object.assign(chart.layout, {paper_bgcolor: colour("--card"), plot_bgcolor: colour("--card")});
  chart.layout.font.color = colour("--ink");
  for (const axis of ["xaxis", "yaxis"])
    Object.assign(chart.layout[axis], {gridcolor: colour("--line"), linecolor: colour("--soft")});
  for (const trace of chart.data) {
    if (trace.line?.color) trace.line.color = inked(trace.line.color);
    if (typeof trace.marker?.color === "string") trace.marker.color = inked(trace.marker.color);
  }
  // the legend has rows of equal cells: room for all of them below the axis, and never more than half the chart
  const names = chart.data.filter((t) => t.showlegend !== false && t.name).map((t) => t.name);
  const cell = 56 + 7 * Math.max(0, ...names.map((n) => n.length));
  const rows = names.length < 2 ? 0 : Math.ceil(names.length / Math.max(1, Math.floor((div.clientWidth - 60) / cell)));
  const legend = rows ? 19 * rows + 10 : 0;
  chart.layout.margin.b = 48 + legend;
  chart.layout.height = Math.max(chart.layout.height, 330 + legend, 2 * legend + 40);
  div.style.height = chart.layout.height + "px";
  Plotly.react(div, chart.data, chart.layout,
    {responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover", scrollZoom: false,
     showSendToCloud: false, plotlyServerURL: "",
     modeBarButtonsToRemove: ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]});
};
// a chart is drawn when it comes near the screen: a long page opens at once
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
}, {rootMargin: "600px"});
document.querySelectorAll(".chart").forEach((div) => watcher.observe(div));
scheme.addEventListener("change", () => document.querySelectorAll(".chart:not(:empty)").forEach(draw));
addEventListener("beforeprint", () => document.querySelectorAll(".chart:empty").forEach(draw));
const sort = (head) => {
  const body = head.closest("table").tBodies[0], at = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent;
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)], [p, q] = [parseFloat(x), parseFloat(y)];
    return isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q;
  };
  [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a)).forEach((row) => body.append(row));
};
document.querySelectorAll("table.sortable th").forEach((head) => {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(head); });
});
"""
