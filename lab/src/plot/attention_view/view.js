async function (id, data, style) {
  "use strict";
  const { time, block, causal, signed } = data;
  const side = Math.ceil(time / block);
  const queries = data.queries, keys = data.keys || queries;

  // The weights: cells of all patterns one after the other, unpacked once.
  const bytes = Uint8Array.from(atob(data.weights), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const levels = new Uint8Array(await new Response(stream).arrayBuffer());
  const cells = causal ? (side * (side + 1)) / 2 : side * side;
  let count = 0;
  for (const model of data.models)
    for (const head of model.heads) {
      head.cells = levels.subarray(count * cells, ++count * cells);
      head.model = model.name;
    }

  // A level's weight as a share of the pattern's greatest, with its sign; NaN for what is not finite.
  const share = Float32Array.from({ length: 256 }, (_, level) => {
    if (level === 0) return NaN;
    const root = signed ? (level - 128) / 127 : (level - 1) / 254;
    return Math.sign(root) * root * root;
  });

  // A pattern at full size and at halves of it: a cell of a coarser one is the strongest of four.
  function pyramid(head) {
    if (head.pyramid) return head.pyramid;
    let fine = new Uint8Array(side * side).fill(signed ? 128 : 1), n = side;
    if (causal) for (let i = 0, at = 0; i < side; at += ++i) fine.set(head.cells.subarray(at, at + i + 1), i * side);
    else fine.set(head.cells);
    const strength = (level) => (level === 0 ? -1 : signed ? Math.abs(level - 128) : level);
    const all = [{ n, cells: fine }];
    while (n > 64) {
      const half = (n + 1) >> 1, coarse = new Uint8Array(half * half);
      for (let i = 0; i < half; i++)
        for (let j = 0; j < half; j++) {
          let best = fine[2 * i * n + 2 * j];
          for (const [a, b] of [[2 * i, 2 * j + 1], [2 * i + 1, 2 * j], [2 * i + 1, 2 * j + 1]])
            if (a < n && b < n && strength(fine[a * n + b]) > strength(best)) best = fine[a * n + b];
          coarse[i * half + j] = best;
        }
      all.push({ n: half, cells: coarse });
      fine = coarse, n = half;
    }
    return (head.pyramid = all);
  }

  const colours = data.colours.match(/.{6}/g).map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const digits = (x) => (x === 0 ? "0" : Math.abs(x) < 1e-4 ? x.toExponential(1) : String(+x.toPrecision(2))).replace("-", "−");
  const token = (list, i) => (list ? `${i} “${list[i]}”` : `${i}`);
  const make = (name, attributes, ...children) => {
    const node = Object.assign(document.createElement(name), attributes);
    node.append(...children);
    return node;
  };

  function start(host) {
    const root = host.attachShadow({ mode: "open" });
    const unique = (list) => [...new Set(list)];
    const heads = data.models.flatMap((model) => model.heads);
    const choice = (label, options, value, change) => {
      const select = make("select", { ariaLabel: label });
      for (const [key, text] of options) select.append(make("option", { value: key, textContent: text }));
      select.value = value;
      select.onchange = () => change(select.value);
      return make("label", {}, label + " ", select);
    };

    // The first two models that have the head to begin with.
    const first = data.models.flatMap((model, index) =>
      model.heads.some((h) => h.layer === data.layer && h.head === data.head) ? [index] : []).slice(0, 2);
    const state = {
      layer: data.layer, scale: "linear", query: null, key: null, zoom: 1, x: 0, y: 0,
      panels: first, heads: [data.head, data.head], name: "pattern",
    };
    const names = unique(heads.map((head) => head.name));
    const numbers = (field) => unique(heads.map((head) => head[field])).sort((a, b) => a - b);
    const named = (list) => list.map((n) => [n, n]);
    const models = data.models.map((model, index) => [index, model.name]);

    const panels = [0, 1].map((place) => {
      const canvas = make("canvas", { tabIndex: 0 });
      const name = make("div", { className: "name" }), said = make("div", { className: "said" });
      const modelChoice = choice("model", place ? [[-1, "none"], ...models] : models, state.panels[place] ?? -1, (value) => {
        if (+value < 0) state.panels.length = 1;
        else state.panels[place] = +value;
        layout();
      });
      const headChoice = choice("head", named(numbers("head")), state.heads[place], (value) => {
        state.heads[place] = +value;
        draw();
      });
      const choices = make("div", { className: "choices" }, modelChoice, headChoice);
      const box = make("div", {}, choices, name, canvas, said);
      return { box, canvas, name, said, context: canvas.getContext("2d") };
    });
    const control = (text, label, act) => make("button", { textContent: text, title: label, ariaLabel: label, onclick: act });
    const scaled = [["linear", "linear"], ["root", "square root"]];
    const top = make("div", { className: "choices" },
      choice("layer", named(numbers("layer")), state.layer, (value) => ((state.layer = +value), draw())),
      ...(names.length > 1 ? [choice("map", named(names), "pattern", (value) => ((state.name = value), draw()))] : []),
      choice("colours", scaled, "linear", (value) => ((state.scale = value), draw())),
      make("span", {}, control("+", "zoom in", () => zoom(2)), " ", control("−", "zoom out", () => zoom(0.5)), " ",
        control("⤢", "show all", () => zoom(0))));
    const bar = make("canvas", { width: 160, height: 10 });
    const [low, high] = [make("span"), make("span")];
    const legend = make("div", { className: "bar" }, data.value, low, bar, high);
    const text = make("div", { className: "text" });
    const spans = (queries || []).map((label, i) => make("span", {
      textContent: label.replaceAll("␣", " "),
      onpointerenter: () => point(i, null),
    }));
    text.append(...spans);
    const notes = [...data.notes];
    if (block > 1) notes.push(`each point is the strongest of ${block} × ${block} weights`);
    notes.push("weights to two digits; drag moves, Ctrl and the wheel zoom, arrow keys choose a cell");
    const view = make("div", { className: "view" },
      make("div", { className: "title", textContent: data.title }), top,
      make("div", { className: "panels" }, ...panels.map((panel) => panel.box)), legend, ...(queries ? [text] : []),
      make("div", { className: "note", textContent: notes.join(" · ") }));
    root.append(make("style", { textContent: style }), view);

    const label = (list, i) => (list ? list[i * block].slice(0, 8) : String(i * block));
    const longest = (list) => Math.max(...Array.from({ length: side }, (_, i) => label(list, i).length));
    const margin = { left: 14 + 7 * longest(queries), bottom: 14 + 7 * longest(keys) };
    const shown = (place) => data.models[state.panels[place]]?.heads
      .find((h) => h.layer === state.layer && h.head === state.heads[place] && h.name === state.name);

    function layout() {
      panels.forEach((panel, place) => {
        const there = place < state.panels.length;
        panel.box.querySelectorAll("label:last-child, canvas, .name, .said").forEach((n) => (n.hidden = n.style.display = there ? "" : "none"));
      });
      draw();
    }

    // Cells of the pattern that are seen: from (x, y), so many along each side.
    const span = () => side / state.zoom;
    function zoom(by, at = [0.5, 0.5]) {
      const before = span();
      state.zoom = by ? Math.min(Math.max(state.zoom * by, 1), Math.max(side / 4, 1)) : 1;
      state.x += at[0] * (before - span());
      state.y += at[1] * (before - span());
      keep();
      draw();
    }
    function keep() {
      const most = side - span();
      state.x = Math.min(Math.max(state.x, 0), most);
      state.y = Math.min(Math.max(state.y, 0), most);
    }

    let waiting = false;
    function draw() {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        const found = [0, 1].map((place) => (place < state.panels.length ? shown(place) : null));
        const most = Math.max(...found.map((head) => head?.most ?? 0)) || 1;
        const [lo, hi] = data.range || [signed ? -most : 0, most];
        panels.forEach((panel, place) => place < state.panels.length && paint(panel, place, found[place], lo, hi));
        low.textContent = digits(lo);
        high.textContent = digits(hi);
        const context = bar.getContext("2d");
        for (let x = 0; x < 160; x++) {
          context.fillStyle = `rgb(${colour(lo + ((hi - lo) * x) / 159, lo, hi)})`;
          context.fillRect(x, 0, 1, 10);
        }
        tell(found);
      });
    }
    function colour(weight, lo, hi) {
      if (!(weight === weight)) return [180, 180, 180];
      let at = Math.min(Math.max((weight - lo) / (hi - lo), 0), 1);
      if (state.scale === "root") at = lo < 0 ? 0.5 + Math.sign(at - 0.5) * Math.sqrt(Math.abs(at - 0.5) / 2) : Math.sqrt(at);
      return colours[Math.round(at * (colours.length - 1))];
    }

    function paint(panel, place, head, lo, hi) {
      const { canvas, context } = panel, { left, bottom } = margin, size = data.size;
      const dense = window.devicePixelRatio || 1, css = getComputedStyle(view);
      if (canvas.width !== Math.round((size + left) * dense)) {
        canvas.width = Math.round((size + left) * dense);
        canvas.height = Math.round((size + bottom) * dense);
        canvas.style.width = `${size + left}px`;
      }
      canvas.ariaLabel = `attention pattern of layer ${state.layer}, head ${state.heads[place]}`;
      panel.name.textContent = `${data.models[state.panels[place]].name} · layer ${state.layer}, head ${state.heads[place]}`;
      context.setTransform(dense, 0, 0, dense, 0, 0);
      context.clearRect(0, 0, size + left, size + bottom);
      context.strokeStyle = css.getPropertyValue("--line");
      context.strokeRect(left - 0.5, 0.5, size, size - 0.5);
      context.fillStyle = css.getPropertyValue("--soft");
      context.font = '11px system-ui, "DejaVu Sans", sans-serif';
      if (!head) {
        context.fillText("this model has no such head", left + 12, 24);
        return;
      }
      // The coarsest picture that still has a cell for every two device pixels.
      const all = pyramid(head), wanted = (size * dense) / 2 / span() * side;
      const picture = all.findLast((p) => p.n >= wanted) || all[0];
      const step = picture.n / side, n = picture.n;
      const [x0, y0] = [Math.floor(state.x * step), Math.floor(state.y * step)];
      const [x1, y1] = [state.x, state.y].map((from) => Math.min(Math.ceil((from + span()) * step), n));
      const image = new ImageData(x1 - x0, y1 - y0);
      const table = Array.from({ length: 256 }, (_, level) => colour(share[level] * head.most, lo, hi));
      for (let i = y0, at = 0; i < y1; i++)
        for (let j = x0; j < x1; j++, at += 4) {
          if (causal && j > i) continue;
          const rgb = table[picture.cells[i * n + j]];
          image.data[at] = rgb[0], image.data[at + 1] = rgb[1], image.data[at + 2] = rgb[2], image.data[at + 3] = 255;
        }
      const buffer = make("canvas", { width: x1 - x0, height: y1 - y0 });
      buffer.getContext("2d").putImageData(image, 0, 0);
      const cell = size / span();
      context.save();
      context.beginPath();
      context.rect(left, 0, size, size);
      context.clip();
      context.imageSmoothingEnabled = false;
      context.drawImage(buffer, left + (x0 / step - state.x) * cell, (y0 / step - state.y) * cell,
        ((x1 - x0) / step) * cell, ((y1 - y0) / step) * cell);
      if (state.query !== null) {
        const [i, j] = [Math.floor(state.query / block), state.key === null ? null : Math.floor(state.key / block)];
        // Light under dark, to be seen on every colour.
        for (const [stroke, width] of [["rgba(255, 255, 255, 0.9)", 3], ["#000", 1]]) {
          context.strokeStyle = stroke;
          context.lineWidth = width;
          context.strokeRect(left + 0.5, (i - state.y) * cell, size - 1, Math.max(cell, 2));
          if (j !== null) context.strokeRect(left + (j - state.x) * cell, 0.5, Math.max(cell, 2), size - 1);
        }
      }
      context.restore();
      // Labels: as many as there is room for, and always those of the cell under the pointer.
      const every = Math.max(1, Math.ceil(13 / cell)), ink = css.getPropertyValue("--ink"), soft = css.getPropertyValue("--soft");
      const room = (at) => at >= 0 && at <= size;
      for (const down of [true, false]) {
        const from = down ? state.y : state.x, chosen = down ? state.query : state.key;
        const here = chosen === null ? null : Math.floor(chosen / block);
        for (let i = Math.ceil(from / every) * every; ; i += every) {
          if (i >= Math.min(from + span(), side)) break;
          if (here === null || i === here || Math.abs(i - here) * cell > 13) put(i, soft);
        }
        if (here !== null) put(here, ink);
        function put(i, shade) {
          const at = (i - from + 0.5) * cell;
          if (!room(at)) return;
          context.fillStyle = shade;
          context.save();
          if (down) {
            context.textAlign = "right";
            context.fillText(label(queries, i), left - 5, at + 4);
          } else {
            context.translate(left + at + 4, size + 6);
            context.rotate(-Math.PI / 2);
            context.textAlign = "right";
            context.fillText(label(keys, i), 0, 0);
          }
          context.restore();
        }
      }
    }

    // The weight of a cell, as a share of the pattern's greatest.
    const weight = (head, i, j) => {
      if (causal && j > i) return 0;
      return share[head.cells[causal ? (i * (i + 1)) / 2 + j : i * side + j]] * head.most;
    };

    function tell(found) {
      const { query, key } = state;
      found.forEach((head, place) => {
        const said = panels[place].said;
        if (!head || query === null) return void (said.textContent = "");
        const i = Math.floor(query / block);
        let j = key === null ? null : Math.floor(key / block);
        let words = "";
        if (j === null) {
          const last = causal ? i + 1 : side;
          j = 0;
          for (let k = 1; k < last; k++) if (Math.abs(weight(head, i, k)) > Math.abs(weight(head, i, j))) j = k;
          words = "most: ";
        }
        const of = causal && j > i ? "ahead of it" : digits(weight(head, i, j)).replace("NaN", "not finite");
        said.textContent = `${token(queries, query)} → ${words}${token(keys, j === Math.floor(key / block) && key !== null ? key : j * block)}: ${of}`;
      });
      const head = found[0];
      const i = query === null ? null : Math.floor(query / block);
      const strongest = head && i !== null
        ? Math.max(...Array.from({ length: causal ? i + 1 : side }, (_, j) => Math.abs(weight(head, i, j)) || 0)) || 1 : 1;
      spans.forEach((node, t) => {
        const w = head && i !== null ? Math.abs(weight(head, i, Math.floor(t / block))) / strongest || 0 : 0;
        node.style.background = w > 0.004 ? `rgba(213, 94, 0, ${(0.85 * Math.sqrt(w)).toFixed(2)})` : "";
        node.className = t === query ? "query" : causal && query !== null && t > query ? "fade" : "";
      });
    }

    function point(query, key) {
      const clamp = (t) => (t === null ? null : Math.min(Math.max(t, 0), time - 1));
      query = clamp(query), key = clamp(key);
      if (query === state.query && key === state.key) return;
      state.query = query, state.key = key;
      draw();
    }

    let drag = null;
    for (const { canvas } of panels) {
      const place = (event) => {
        const box = canvas.getBoundingClientRect(), { left } = margin;
        const scale = (data.size + left) / box.width;
        return [((event.clientX - box.left) * scale - left) / data.size, ((event.clientY - box.top) * scale) / data.size];
      };
      canvas.onpointerdown = (event) => {
        drag = { at: place(event), x: state.x, y: state.y };
        canvas.setPointerCapture(event.pointerId);
      };
      canvas.onpointerup = () => (drag = null);
      canvas.onpointermove = (event) => {
        const [x, y] = place(event);
        if (drag) {
          state.x = drag.x - (x - drag.at[0]) * span();
          state.y = drag.y - (y - drag.at[1]) * span();
          keep();
          return draw();
        }
        if (x < 0 || x >= 1 || y < 0 || y >= 1) return point(null, null);
        point(Math.floor((state.y + y * span()) * block), Math.floor((state.x + x * span()) * block));
      };
      canvas.onpointerleave = () => drag || point(null, null);
      canvas.ondblclick = (event) => zoom(2, place(event));
      canvas.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        zoom(Math.exp(-event.deltaY / 200), place(event).map((share) => Math.min(Math.max(share, 0), 1)));
      }, { passive: false });
      canvas.onkeydown = (event) => {
        const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
        if (event.key === "+" || event.key === "=") zoom(2);
        else if (event.key === "-") zoom(0.5);
        else if (move) point((state.query ?? 0) + move[0] * block, (state.key ?? 0) + move[1] * block);
        else return;
        event.preventDefault();
        event.stopPropagation();
      };
    }
    text.onpointerleave = () => point(null, null);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    layout();
  }

  for (const host of document.querySelectorAll(`[data-attention-view="${id}"]:not([data-ready])`)) {
    host.dataset.ready = "";
    start(host);
  }
}
