#include "cli/report_page.h"

namespace wideep::cli {

// Series colours are from Okabe and Ito's palette, darkened or lightened to at least 4.5 : 1 on
// their ground, so that they differ for colour-blind readers, too.
const std::string_view kReportStyle = R"css(
:root {
  color-scheme: light dark;
  --ground: #f5f6f8; --card: #ffffff; --ink: #151a21; --muted: #5a6473; --line: #dfe4ea;
  --grid: #e8ecf1; --link: #c5ccd6; --recorded: #bf4f00; --projected: #0a66ad; --best: #00805e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0d1117; --card: #161b22; --ink: #e7ebf1; --muted: #9aa5b4; --line: #2a313c;
    --grid: #242b35; --link: #3d4754; --recorded: #f0954f; --projected: #5eb0ee; --best: #35c796;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1440px; margin: 0 auto; padding: 32px 24px 48px; }
h1, h2, h3, p, dl, dd, figure { margin: 0; }
h1 { font-size: 28px; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; }
h2 { font-size: 16px; line-height: 1.4; font-weight: 650; }
h3 { font-size: 13px; font-weight: 600; }
.facts { display: flex; flex-wrap: wrap; gap: 2px 24px; margin-top: 8px; color: var(--muted); }
.facts dt { display: inline; }
.facts dt::after { content: " "; }
.facts dd { display: inline; color: var(--ink); overflow-wrap: anywhere; }
.summary { display: grid; gap: 16px; margin: 24px 0 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px; margin-top: 16px; }
.summary .card { margin: 0; padding: 16px 20px; }
.summary h2 { font-size: 13px; color: var(--muted); font-weight: 500; }
.summary .value { color: var(--ink); font-size: 26px; line-height: 1.3; font-weight: 650;
  letter-spacing: -0.01em; white-space: nowrap; margin: 2px 0 4px; }
.arrow { color: var(--muted); font-weight: 400; padding: 0 6px; }
.summary p, .note { color: var(--muted); font-size: 13px; max-width: 92ch; }
.recorded { color: var(--recorded); } .projected { color: var(--projected); }
.best { color: var(--best); }
.head { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start;
  justify-content: space-between; margin-bottom: 12px; }
.head > div:first-child { flex: 1 1 320px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 8px; font-size: 13px;
  color: var(--muted); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 50%;
  margin-right: 6px; background: currentColor; }
svg, canvas { display: block; }
svg text { font-size: 12px; fill: var(--muted); }
.heats { display: grid; gap: 20px 32px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.heats h3, .heats .note { margin-bottom: 6px; }
.scale { width: 240px; max-width: 100%; font-size: 12px; color: var(--muted); }
.scale .bar { height: 10px; border-radius: 3px; border: 1px solid var(--line); }
.scale .ticks { position: relative; height: 18px; margin: 2px 0 0; }
.scale .ticks span { position: absolute; transform: translateX(-50%); white-space: nowrap; }
.scale .ticks span:first-child { transform: none; }
.scale .ticks span:last-child { transform: translateX(-100%); }
.multiples { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(208px, 1fr)); }
.multiples figure { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
.multiples figcaption { display: flex; justify-content: space-between; gap: 8px;
  margin-bottom: 6px; font-size: 13px; }
.multiples figcaption b { font-weight: 600; }
.multiples svg { width: 100%; height: 48px; border-bottom: 1px solid var(--link); }
.multiples svg + svg { margin-top: 6px; }
.switch { display: inline-flex; border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; }
.switch button { font: inherit; font-size: 13px; color: var(--muted); background: none; border: 0;
  padding: 4px 12px; cursor: pointer; }
.switch button[aria-pressed=true] { background: var(--grid); color: var(--ink); font-weight: 600; }
.scroll { overflow: auto; max-height: 560px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 13px; }
th, td { text-align: right; padding: 4px 12px; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th, tfoot th, tfoot td { position: sticky; background: var(--card); font-weight: 600; }
thead th { top: 28px; border-bottom-color: var(--link); }
thead tr:first-child th { top: 0; height: 28px; border-bottom: 0; }
tfoot th, tfoot td { bottom: 0; border-top: 1px solid var(--link); border-bottom: 0; }
tbody th { font-weight: 400; }
#tip { position: fixed; z-index: 1; pointer-events: none; visibility: hidden; padding: 6px 10px;
  border-radius: 6px; font-size: 12px; line-height: 1.45; white-space: pre; background: var(--ink);
  color: var(--card); box-shadow: 0 4px 16px rgb(0 0 0 / 0.25); }
footer { margin-top: 24px; color: var(--muted); font-size: 12px; }
@media (max-width: 600px) {
  main { padding: 20px 12px 32px; }
  .card { padding: 16px 14px; } .summary .value { font-size: 22px; }
  .multiples { grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); }
}
@media print { .scroll { max-height: none; } .switch { display: none; } }
)css";

const std::string_view kReportScript = R"js(
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const heats = data.views.filter(view => view.key !== 'best');
const css = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
const tokens = value => value.toLocaleString('en', {maximumFractionDigits: value < 100 ? 1 : 0});
const ratio = value => value.toFixed(value >= 0.01 || value === 0 ? 3 : 4);
const load = (view, layer, place) => view.tokens[layer * view.places + place];
// Tokens over the mean of the layer's places; 0 for a layer without tokens.
const relative = (view, layer, place) =>
    view.mean[layer] && load(view, layer, place) / view.mean[layer];
const fullest = heats.reduce((max, view) => data.layers.reduce((inner, _, layer) => {
  for (let p = 0; p < view.places; ++p) inner = Math.max(inner, relative(view, layer, p));
  return inner;
}, max), 1);

// Where bars end: nine layers of ten fit whole, so that one outlier does not flatten all others.
const peaks = data.layers.map((_, layer) => Math.max(...heats.map(view => {
  let peak = 0;
  for (let p = 0; p < view.places; ++p) peak = Math.max(peak, relative(view, layer, p));
  return peak;
}))).sort((a, b) => a - b);
const barLimit = Math.max(1.5, peaks[Math.floor(0.9 * (peaks.length - 1))]);

function svg(tag, attributes, parent) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

function html(tag, className, text, parent) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const tip = document.getElementById('tip');
// Shows what(event) beside the pointer while it is over node; an empty text hides it.
function hover(node, what) {
  const show = event => {
    const text = what(event);
    tip.style.visibility = text ? 'visible' : 'hidden';
    if (!text) return;
    tip.textContent = text;
    const left = event.clientX + 14 + tip.offsetWidth > innerWidth
        ? event.clientX - 14 - tip.offsetWidth : event.clientX + 14;
    tip.style.left = Math.max(4, left) + 'px';
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4) + 'px';
  };
  node.addEventListener('pointermove', show);
  node.addEventListener('pointerdown', show);
  node.addEventListener('pointerleave', () => { tip.style.visibility = 'hidden'; });
}

// Calls choose(value) for the button of a group that is pressed.
function onSwitch(id, choose) {
  const buttons = [...document.querySelectorAll(`#${id} button`)];
  buttons.forEach(button => button.addEventListener('click', () => {
    buttons.forEach(other => other.setAttribute('aria-pressed', other === button));
    choose(button.value);
  }));
}

function niceStep(max, count) {
  const raw = max / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map(factor => factor * power).find(step => step >= raw * 0.999);
}

const ratios = data.views.flatMap(view => view.ratio);
// Axes of the ratios: part(value) in [0, 1] and the ticks [value, text].
function linearAxis() {
  const max = Math.max(1e-3, ...ratios), step = niceStep(max, 5);
  const count = Math.ceil(max / step - 1e-9);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = Array.from({length: count + 1}, (_, i) => [i * step, (i * step).toFixed(digits)]);
  return {part: value => value / (count * step), ticks};
}

// Whole decades; a ratio of 0 sits on the axis.
function logAxis() {
  const above = ratios.filter(value => value > 1e-6);
  const low = Math.floor(Math.log10(Math.min(0.1, ...above)));
  const high = Math.ceil(Math.log10(Math.max(1, ...above)));
  const powers = Array.from({length: high - low + 1}, (_, i) => 10 ** (low + i));
  const part = value => value > 0 ? Math.max(0, (Math.log10(value) - low) / (high - low)) : 0;
  return {part, ticks: powers.map(power => [power, String(+power.toPrecision(1))])};
}

let logarithmic = false;
// One column a layer: a dot for each view, joined by a line. The best split is a smaller dot, as it
// often lies on the even one.
function drawRatios() {
  const box = document.getElementById('ratios');
  box.replaceChildren();
  const width = box.clientWidth, height = 280, left = 48, right = 8, top = 26, bottom = 40;
  const count = data.layers.length, band = (width - left - right) / count;
  const {part, ticks} = logarithmic ? logAxis() : linearAxis();
  const x = layer => left + (layer + 0.5) * band;
  const y = value => height - bottom - part(value) * (height - top - bottom);
  const label = {role: 'img', 'aria-label': 'Imbalance ratio of each layer'};
  const root = svg('svg', {width, height, ...label}, box);
  const text = (tx, ty, anchor, content) => {
    svg('text', {x: tx, y: ty, 'text-anchor': anchor}, root).textContent = content;
  };
  for (const [value, name] of ticks) {
    const ends = {x1: left, x2: width - right, y1: y(value), y2: y(value)};
    svg('line', {...ends, stroke: 'var(--grid)'}, root);
    text(left - 8, y(value) + 4, 'end', name);
  }
  text(0, 11, 'start', 'imbalance ratio');
  text((left + width - right) / 2, height - 4, 'middle', 'layer');
  const column = {y: top, width: band, height: height - top - bottom};
  const guide = svg('rect', {...column, fill: 'var(--grid)', visibility: 'hidden'}, root);
  const every = Math.max(1, Math.ceil(28 / band));
  const radius = Math.max(2, Math.min(5, band / 3.2));
  data.layers.forEach((name, layer) => {
    const values = data.views.map(view => view.ratio[layer]);
    const lowest = values.length > 1 ? Math.min(...values) : 0;
    const ends = {x1: x(layer), x2: x(layer), y1: y(Math.max(...values)), y2: y(lowest)};
    svg('line', {...ends, stroke: 'var(--link)', 'stroke-width': Math.max(1, radius / 2)}, root);
    data.views.forEach((view, i) => {
      const r = view.key === 'best' ? radius * 0.6 : radius;
      svg('circle', {cx: x(layer), cy: y(values[i]), r, fill: `var(--${view.key})`}, root);
    });
    if (layer % every === 0) text(x(layer), height - bottom + 18, 'middle', name);
  });
  hover(root, event => {
    const layer = Math.floor((event.clientX - root.getBoundingClientRect().left - left) / band);
    const inside = layer >= 0 && layer < count;
    guide.setAttribute('visibility', inside ? 'visible' : 'hidden');
    if (!inside) return '';
    guide.setAttribute('x', left + layer * band);
    const lines = data.views.map(view => `${view.name}: ${ratio(view.ratio[layer])}`);
    return [`Layer ${data.layers[layer]}`, ...lines].join('\n');
  });
  root.addEventListener('pointerleave', () => guide.setAttribute('visibility', 'hidden'));
}

// Magma (van der Walt and Smith): lightness grows evenly, and red and green need not be told apart.
const magma = ['#1c1044', '#4f127b', '#812581', '#b5367a', '#e55964', '#fb8761', '#fec287',
               '#fcfdbf'].map(hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)));
const isDark = () => matchMedia('(prefers-color-scheme: dark)').matches;
// Where a load is on the scale, 0 to 1. Above 4 x the mean a square root keeps the mean off 0.
const position = value => fullest > 4 ? Math.sqrt(value / fullest) : value / fullest;
// Small loads are near the ground in both themes.
function colour(at) {
  const t = Math.max(0, Math.min(1, isDark() ? at : 1 - at)) * (magma.length - 1);
  const i = Math.min(Math.floor(t), magma.length - 2);
  const mixed = magma[i].map((from, c) => Math.round(from + (magma[i + 1][c] - from) * (t - i)));
  return `rgb(${mixed})`;
}

function drawScale() {
  const box = document.getElementById('scale');
  box.replaceChildren();
  html('div', '', 'tokens / mean of the layer', box);
  const stops = Array.from({length: 17}, (_, i) => colour(i / 16));
  html('div', 'bar', undefined, box).style.background = `linear-gradient(to right, ${stops})`;
  const ticks = html('div', 'ticks', undefined, box);
  const step = Math.max(1, niceStep(fullest, 4));
  const marks = [0, 1];
  for (let mark = step > 1 ? step : 2; position(mark) < 0.8; mark += step) marks.push(mark);
  if (position(1) > 0.8) marks.pop();
  for (const mark of [...marks, fullest]) {
    const tick = html('span', '', mark === fullest ? mark.toFixed(2) : mark, ticks);
    tick.style.left = position(mark) * 100 + '%';
  }
}

function drawHeat(canvas, view) {
  const count = data.layers.length, left = 32, bottom = 36, top = 1;
  const width = canvas.parentNode.clientWidth, cell = (width - left) / view.places;
  const line = Math.max(7, Math.min(20, 560 / count)), height = top + count * line + bottom;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = width + 'px';
  canvas.style.height = height + 'px';
  const draw = canvas.getContext('2d');
  // Edges on whole device pixels, so that cells are sharp, and a gap where there is room for one.
  const edges = (from, size, number) =>
      Array.from({length: number + 1}, (_, i) => Math.round((from + i * size) * scale));
  const columns = edges(left, cell, view.places), rows = edges(top, line, count);
  const gap = cell >= 6 ? scale : 0;
  for (let layer = 0; layer < count; ++layer) {
    const tall = rows[layer + 1] - rows[layer] - scale;
    for (let place = 0; place < view.places; ++place) {
      const wide = Math.max(1, columns[place + 1] - columns[place] - gap);
      draw.fillStyle = colour(position(relative(view, layer, place)));
      draw.fillRect(columns[place], rows[layer], wide, tall);
    }
  }
  draw.scale(scale, scale);
  draw.font = '12px ' + getComputedStyle(document.body).fontFamily;
  draw.fillStyle = css('muted');
  draw.textAlign = 'right';
  for (let layer = 0; layer < count; layer += Math.ceil(14 / line)) {
    draw.fillText(data.layers[layer], left - 6, top + (layer + 0.5) * line + 4);
  }
  draw.textAlign = 'center';
  const every = Math.max(1, niceStep(view.places, Math.max(1, (width - left) / 36)));
  for (let place = 0; place < view.places; place += every) {
    draw.fillText(place, left + (place + 0.5) * cell, height - bottom + 16);
  }
  draw.fillText(view.unit, left + (width - left) / 2, height - 4);
  // The [layer, place] under the pointer.
  canvas.at = event => {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left - left, y = event.clientY - box.top - top;
    return [Math.floor(y / line), Math.floor(x / cell)];
  };
}

const describe = (view, layer, place) =>
    `Layer ${data.layers[layer]}, ${view.unit} ${place}\n${view.name}: ` +
    `${tokens(load(view, layer, place))} tokens, ${relative(view, layer, place).toFixed(2)} x mean`;

const canvases = heats.map(view => {
  const figure = html('figure', '', undefined, document.getElementById('heat'));
  html('h3', view.key, view.title, figure);
  const canvas = html('canvas', '', undefined, figure);
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `Heat map of layers and ${view.unit}s: ${view.title}`);
  hover(canvas, event => {
    const [layer, place] = canvas.at(event);
    const inside = layer >= 0 && layer < data.layers.length && place >= 0 && place < view.places;
    return inside ? describe(view, layer, place) : '';
  });
  return canvas;
});

// One strip of bars of a layer in a view. The scale is the same everywhere; the dashed line is the
// mean, and a gap marks a bar that was cut.
function drawStrip(view, layer, figure) {
  const height = 48;
  const label = {role: 'img', 'aria-label': `Layer ${data.layers[layer]}, ${view.name}`};
  const box = {viewBox: `0 0 ${view.places} ${height}`, preserveAspectRatio: 'none'};
  const root = svg('svg', {...box, ...label}, figure);
  const bar = view.places > 96 ? 1 : 0.82;
  let path = '', cuts = '';
  for (let place = 0; place < view.places; ++place) {
    const value = relative(view, layer, place), x = (place + (1 - bar) / 2).toFixed(2);
    const tall = Math.min(height, value / barLimit * height).toFixed(2);
    path += `M${x} ${height}v-${tall}h${bar}v${tall}z`;
    if (value > barLimit * 1.001) cuts += `M${x} 7h${bar}`;
  }
  svg('path', {d: path, fill: `var(--${view.key})`}, root);
  svg('path', {d: cuts, stroke: 'var(--card)', 'stroke-width': 3}, root);
  const mean = height - height / barLimit;
  const ends = {x1: 0, x2: view.places, y1: mean, y2: mean, 'vector-effect': 'non-scaling-stroke'};
  const dashes = {'stroke-dasharray': '3 3', 'stroke-opacity': 0.7};
  svg('line', {...ends, ...dashes, stroke: 'var(--ink)'}, root);
  hover(root, event => {
    const frame = root.getBoundingClientRect();
    const place = Math.floor((event.clientX - frame.left) / frame.width * view.places);
    return describe(view, layer, Math.max(0, Math.min(view.places - 1, place)));
  });
}

function drawLayers() {
  document.getElementById('limit').textContent = barLimit.toFixed(1);
  const grid = document.getElementById('layers');
  const figures = data.layers.map((name, layer) => {
    const figure = html('figure', '', undefined, grid);
    const caption = html('figcaption', '', undefined, figure);
    html('b', '', `Layer ${name}`, caption);
    const values = html('span', '', undefined, caption);
    heats.forEach((view, i) => {
      if (i) html('span', 'arrow', '\u2192', values);
      html('span', view.key, ratio(view.ratio[layer]), values);
      drawStrip(view, layer, figure);
    });
    return figure;
  });
  onSwitch('order', value => {
    const order = data.layers.map((_, layer) => layer);
    if (value === 'ratio') order.sort((a, b) => heats[0].ratio[b] - heats[0].ratio[a] || a - b);
    grid.append(...order.map(layer => figures[layer]));
  });
}

function drawSized() {
  drawRatios();
  drawScale();
  canvases.forEach((canvas, i) => drawHeat(canvas, heats[i]));
}

drawLayers();
drawSized();
onSwitch('axis', value => { logarithmic = value === 'log'; drawRatios(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawSized);
let width = innerWidth;
addEventListener('resize', () => {
  if (width === innerWidth) return;
  width = innerWidth;
  drawSized();
});
)js";

}  // namespace wideep::cli
