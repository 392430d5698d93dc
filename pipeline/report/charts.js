// Draw every chart of the page. Text and grid colours come from page.css, so that they follow dark mode and print.
for (const box of document.querySelectorAll(".chart")) {
  const { data, layout } = JSON.parse(box.dataset.chart);
  for (const axis of ["xaxis", "yaxis"]) {
    layout[axis] = { automargin: true, fixedrange: true, zeroline: false, ...layout[axis] };
  }
  const base = {
    margin: { l: 8, r: 12, t: 10, b: 8 },
    height: 320,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13 },
    hovermode: "closest",
    showlegend: data.length > 1,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
  };
  const options = { responsive: true, displaylogo: false, displayModeBar: false };
  Plotly.newPlot(box, data, { ...base, ...layout }, options);
}
// Printed pages open what is folded on the screen except the stage details, and fit charts to the paper
window.addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll(".chart")) {
    Plotly.relayout(box, { width: Math.min(box.clientWidth, 640) });
  }
});
window.addEventListener("afterprint", () => {
  for (const box of document.querySelectorAll(".chart")) Plotly.relayout(box, { width: null });
});
