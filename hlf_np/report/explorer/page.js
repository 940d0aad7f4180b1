// The page: pictures, sliders and tables. All numbers come from network.js and spaces.js.
"use strict";

const PARAMETERS = ["Move across", "Move down", "Slant across", "Slant down", "Size", "Turn"];
const SPACES = { image: "image (regular)", true: "true manifold", learned: "learned manifold" };
const STEPS_PER_RADIUS = 40, RADII = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4];
const WORK_MILLISECONDS = 8, QUIET_MILLISECONDS = 200;
// A loop, as an image may have more values than a function takes arguments.
const maxNorm = (values) => values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
const byId = (id) => document.getElementById(id);

// Long computations wait here now and then, so that the page answers; while something is moved, they stand still.
let resumed = performance.now(), moved = -Infinity;
addEventListener("input", () => { moved = performance.now(); }, true);
async function pause() {
  if (performance.now() - resumed < WORK_MILLISECONDS) return;
  do await new Promise((resume) => setTimeout(resume)); while (performance.now() - moved < QUIET_MILLISECONDS);
  resumed = performance.now();
}

function startPage(data) {
  const [height, width, channels] = data.shape, size = height * width;
  const models = data.models.map((model) => ({ ...model, network: unpackNetwork(model.layers) }));
  const images = data.images.map((image) => ({
    ...image, pixels: unpackImage(image.pixels), prototype: image.prototype && unpackImage(image.prototype),
    parameters: image.parameters && Float32Array.from(image.parameters), code: image.code && Float32Array.from(image.code),
  }));
  const decoders = data.decoders.map(unpackNetwork);
  let chosen = images[0];
  const redraw = [];  // what depends on the chosen image

  // The space of an image, for an epsilon; null where the run does not have it.
  const spaces = {
    image: (image, epsilon) => imageSpace(image.pixels, epsilon),
    true: (image, epsilon) => warpSpace(image.prototype, height, width, image.parameters, data.box, epsilon),
    learned: (image, epsilon) => codeSpace(decoders[image.label], image.code, data.codeBox, epsilon),
  };
  const available = Object.keys(SPACES).filter(
    (name) => name === "image" || (name === "true" ? data.box !== null : decoders.length > 0));

  // --- parts of the page ---

  function draw(canvas, pixels, transform = (value) => value) {
    canvas.width = width; canvas.height = height;
    const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
    for (let i = 0; i < size; i++) {
      const colors = [0, 1, 2].map((c) => 255 * transform(pixels[(c % channels) * size + i]));
      picture.data.set([...colors, 255], 4 * i);  // a byte array that clips to [0, 255]
    }
    context.putImageData(picture, 0, 0);
  }

  function slider(parent, name, { min, max, value, step }, changed) {
    const label = document.createElement("label"), input = document.createElement("input");
    const output = document.createElement("output"), text = document.createElement("span");
    label.className = "slider"; text.textContent = name;
    Object.assign(input, { type: "range", min, max, step, value });
    const digits = step >= 1 ? 0 : step >= 0.01 ? 2 : 3;
    const show = () => { output.textContent = Number(input.value).toFixed(digits); };
    input.addEventListener("input", () => { show(); changed(Number(input.value)); });
    label.append(text, input, output); parent.append(label); show();
    return { get value() { return Number(input.value); }, set value(v) { input.value = v; show(); }, input };
  }

  function fillSelect(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
  }

  // A row for each model: what it says about an image, and how probable it finds the right class.
  function makeTable(body) {
    const rows = models.map((model) => {
      const row = document.createElement("tr");
      row.innerHTML = '<th scope="row"></th><td class="prediction"></td><td><div class="bar"></div><span></span></td>';
      row.firstChild.textContent = model.label; body.append(row);
      return row;
    });
    return (pixels, label) => models.forEach((model, i) => {
      const logits = model.network.forward(pixels), said = argmax(logits), probability = softmax(logits)[label];
      rows[i].className = said === label ? "right" : "wrong";
      rows[i].children[1].textContent = data.classes[said];
      rows[i].querySelector(".bar").style.width = `${(100 * probability).toFixed(1)}%`;
      rows[i].querySelector("span").textContent = probability.toFixed(3);
    });
  }

  // --- choose an image ---

  images.forEach((image, i) => {
    const button = document.createElement("button"), canvas = document.createElement("canvas");
    button.type = "button"; button.setAttribute("aria-pressed", String(i === 0));
    button.setAttribute("aria-label", `Image ${i + 1}: ${data.classes[image.label]}`);
    draw(canvas, image.pixels); button.append(canvas); byId("letters").append(button);
    button.addEventListener("click", () => {
      document.querySelectorAll("#letters button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      chosen = image; redraw.forEach((part) => part());
    });
  });

  // --- 1. walk on the manifold ---

  document.querySelectorAll(".true-manifold").forEach((part) => { part.hidden = data.box === null; });
  if (data.box !== null) {
    const show = makeTable(byId("walk-models"));
    const sliders = PARAMETERS.map((name, i) =>
      slider(byId("walk-sliders"), name, { min: data.box.lower[i], max: data.box.upper[i], value: 0, step: 0.001 }, update));
    function update() {
      const code = Float32Array.from(sliders, (part) => part.value);
      const image = makeWarp(chosen.prototype, height, width).decode(code);
      draw(byId("walk-image"), image); show(image, chosen.label);
    }
    const reset = () => { sliders.forEach((part, i) => { part.value = chosen.parameters[i]; }); update(); };
    byId("walk-reset").addEventListener("click", reset); redraw.push(reset);
  }

  // --- 2. attack ---

  const settings = {};
  fillSelect(byId("attack-model"), models.map((model) => [model.name, model.label]));
  settings.epsilon = slider(byId("attack-sliders"), "Epsilon", { min: 0.01, max: 0.5, value: data.epsilon, step: 0.01 }, resetAttacks);
  settings.steps = slider(byId("attack-sliders"), "Steps", { min: 1, max: 200, value: data.steps, step: 1 }, resetAttacks);
  settings.stepSize = slider(byId("attack-sliders"), "Step size", { min: 0.001, max: 0.1, value: data.stepSize, step: 0.001 }, resetAttacks);
  // The same attack in each space, side by side: where it is shown, and how far it is.
  const attacks = available.map((name) => {
    const part = document.createElement("article");
    part.id = `attack-${name}`;
    part.innerHTML = `<h3></h3><div class="images">${["Start", "Change (grey: none)", "Now"].map((caption) =>
      `<figure><canvas class="small" role="img" aria-label="${caption}"></canvas><figcaption>${caption}</figcaption></figure>`
    ).join("")}</div><p class="said" role="status"></p>`;
    part.firstChild.textContent = `Attack on the ${SPACES[name]}`;
    byId("attack-spaces").append(part);
    const [before, change, after] = part.querySelectorAll("canvas");
    return { name, before, change, after, said: part.querySelector(".said") };
  });
  let model = models[0], attackRun = 0;

  function resetAttacks() {
    attackRun++;
    model = models.find(({ name }) => name === byId("attack-model").value);
    for (const attack of attacks) {
      const space = spaces[attack.name](chosen, settings.epsilon.value), start = space.decode(space.start);
      const step = makeAttack(model.network, space, chosen.label, settings.stepSize.value, "adam");
      Object.assign(attack, { start, step, count: 0, done: false });
      draw(attack.before, start);
      showAttack(attack, { code: space.start, image: start, logits: model.network.forward(start) });
    }
  }
  function distanceToManifold(attack, code, image) {
    const manifold = spaces.true(chosen, Infinity);
    return distanceTo(manifold, image, attack.name === "true" ? [manifold.start, code] : [manifold.start]);
  }
  function showAttack(attack, { code, image, logits }) {
    const change = image.map((value, i) => value - attack.start[i]), largest = Math.max(maxNorm(change), 1e-6);
    draw(attack.change, change, (value) => 0.5 + value / (2 * largest)); draw(attack.after, image);
    const said = argmax(logits), sure = softmax(logits)[said];
    const distance = data.box === null ? "" :
      ` Distance to the manifold: ${distanceToManifold(attack, code, image).toFixed(2)}.`;
    attack.said.className = said === chosen.label ? "said right" : "said wrong";
    attack.said.textContent =
      `After ${attack.count} steps: ${data.classes[said]} (probability ${sure.toFixed(3)})` +
      `${said === chosen.label ? "" : `; it was ${data.classes[chosen.label]}`}. Largest change of a pixel: ` +
      `${maxNorm(change).toFixed(3)}.${distance}`;
    attack.done = attack.count >= settings.steps.value || (attack.count > 0 && said !== chosen.label);
  }
  // One step of each attack that has neither succeeded nor used up its steps; whether there was any.
  function stepAttacks() {
    const going = attacks.filter((attack) => !attack.done);
    going.forEach((attack) => { attack.count++; showAttack(attack, attack.step()); });
    return going.length > 0;
  }
  async function runAttacks() {
    const run = ++attackRun;
    while (run === attackRun && stepAttacks()) await new Promise((resume) => setTimeout(resume));  // so that it is seen
  }
  byId("attack-step").addEventListener("click", () => { attackRun++; stepAttacks(); });
  byId("attack-run").addEventListener("click", runAttacks);
  byId("attack-reset").addEventListener("click", resetAttacks);
  byId("attack-model").addEventListener("change", resetAttacks);
  redraw.push(resetAttacks);

  // --- 3. compare ---

  fillSelect(byId("compare-space"), available.map((name) => [name, SPACES[name]]));
  const rows = models.map((model) => {
    const row = document.createElement("tr");
    row.innerHTML = '<th scope="row"><span class="key"></span></th><td></td><td></td>';
    row.querySelector(".key").style.background = model.color; row.firstChild.append(model.label);
    byId("compare-models").append(row);
    return row;
  });
  const epsilonShown = slider(byId("compare-slider"), "Epsilon", { min: 0, max: 0.4, value: 0.1, step: 0.01 }, showComparison);
  // For each space and image, what was found for each model: the smallest of the radii at which the attack succeeds,
  // infinity if it never does, NaN if the model errs without an attack.
  const found = Object.fromEntries(available.map((name) => [name, new Map()]));
  let running = 0;

  async function succeeds(model, image, space, epsilon) {
    const step = makeAttack(model.network, spaces[space](image, epsilon), image.label, epsilon / 8, "sign");
    for (let k = 0; k < STEPS_PER_RADIUS; k++) {
      if (argmax(step().logits) !== image.label) return true;
      await pause();
    }
    return false;
  }
  async function smallestRadius(model, image, space) {
    const { decode, start } = spaces[space](image, 1);
    if (argmax(model.network.forward(decode(start))) !== image.label) return NaN;
    let failing = -1, succeeding = RADII.length;  // bisection: more room never makes an attack harder
    while (succeeding - failing > 1) {
      const middle = (failing + succeeding) >> 1;
      if (await succeeds(model, image, space, RADII[middle])) succeeding = middle; else failing = middle;
    }
    return RADII[succeeding] ?? Infinity;
  }
  async function attackImages(list) {
    const run = ++running, space = byId("compare-space").value;
    showComparison();
    for (const image of list.filter((image) => !found[space].has(image))) {
      const radii = [];
      for (const model of models) {
        radii.push(await smallestRadius(model, image, space));
        if (run !== running) return;  // another image or space was chosen
      }
      found[space].set(image, radii);
      showComparison();
    }
  }
  function showComparison() {
    const all = found[byId("compare-space").value], mine = all.get(chosen), epsilon = epsilonShown.value;
    const share = (i, radius) => {
      const standing = [...all.values()].map((radii) => radii[i]).filter((value) => !Number.isNaN(value));
      return standing.filter((value) => value <= radius).length / standing.length;
    };
    rows.forEach((row, i) => {
      row.children[1].textContent = !mine ? "..." : Number.isNaN(mine[i]) ? "errs anyway"
        : mine[i] === Infinity ? `not up to ${RADII.at(-1)}` : `at ${mine[i]}`;
      row.className = mine && !(mine[i] > epsilon) ? "wrong" : "right";
      row.children[2].textContent = Number.isNaN(share(i, epsilon)) ? "" : share(i, epsilon).toFixed(2);
    });
    byId("compare-said").textContent = all.size < images.length ? `${all.size} of ${images.length} images attacked.`
      : `All ${all.size} images attacked.`;
    plot(models.map((_, i) => [0, ...RADII].map((radius) => share(i, radius))), epsilon);
  }
  function plot(curves, epsilon) {
    const canvas = byId("compare-plot"), context = canvas.getContext("2d"), style = getComputedStyle(document.body);
    const wide = canvas.clientWidth || 600, high = Math.round(0.5 * wide);
    canvas.width = wide * devicePixelRatio; canvas.height = high * devicePixelRatio;
    context.scale(devicePixelRatio, devicePixelRatio);
    const at = { x: (e) => 34 + ((wide - 50) * e) / 0.4, y: (r) => high - 26 - (high - 36) * r };
    const line = (color, ...points) => {
      context.strokeStyle = color; context.beginPath();
      points.forEach(([e, r], k) => context[k ? "lineTo" : "moveTo"](at.x(e), at.y(r)));
      context.stroke();
    };
    context.font = "13px system-ui, sans-serif"; context.fillStyle = style.color;
    for (const rate of [0, 0.5, 1]) {
      line(style.getPropertyValue("--line"), [0, rate], [0.4, rate]);
      context.fillText(rate.toFixed(1), 6, at.y(rate) + 4);
    }
    for (const tick of [0, 0.1, 0.2, 0.3, 0.4]) context.fillText(String(tick), at.x(tick) - 8, high - 6);
    line(style.getPropertyValue("--muted"), [epsilon, 0], [epsilon, 1]);
    context.lineWidth = 2;
    curves.forEach((curve, i) => {  // in steps: between two radii, success is that of the smaller one
      const radius = (k) => (k ? RADII[k - 1] : 0), steps = curve.flatMap((rate, k) => [[radius(k), rate], [RADII[k] ?? radius(k), rate]]);
      if (!Number.isNaN(curve[0])) line(models[i].color, ...steps);
    });
  }
  byId("compare-run").addEventListener("click", () => attackImages([chosen, ...images]));
  byId("compare-space").addEventListener("change", () => attackImages([chosen]));
  redraw.push(() => attackImages([chosen]));

  // --- 4. walk on the learned manifold ---

  byId("learned").hidden = !decoders.length;
  if (decoders.length) {
    const show = makeTable(byId("learned-models")), entries = data.codeBox.lower.map((_, i) => [i, String(i + 1)]);
    const selects = ["first", "second"].map((which) => byId(`learned-${which}`));
    selects.forEach((select, i) => { fillSelect(select, entries); select.value = i; select.addEventListener("change", take); });
    const sliders = ["First entry", "Second entry"].map((name) =>
      slider(byId("learned-sliders"), name, { min: -4, max: 4, value: 0, step: 0.01 }, update));
    let code;
    function take() { sliders.forEach((part, i) => { part.value = code[selects[i].value]; }); update(); }
    function update() {
      selects.forEach((select, i) => { code[select.value] = sliders[i].value; });
      const image = decoders[chosen.label].forward(code), size = Math.max(...code.map(Math.abs));
      draw(byId("learned-image"), image); show(image, chosen.label);
      byId("learned-caption").textContent = `Decoded; largest entry ${size.toFixed(2)}${size > 2 ? ", outside of [-2, 2]" : ""}`;
    }
    const reset = () => { code = Float32Array.from(chosen.code); take(); };
    byId("learned-reset").addEventListener("click", reset); redraw.push(reset);
  }

  redraw.forEach((part) => part());
  // For scripts: the names of the models, and the logits of an image given as numbers in [0, 1], by channel, row and
  // column.
  window.hlf_np = {
    models: models.map(({ name }) => name),
    logits: (name, pixels) => {
      const model = models.find((candidate) => candidate.name === name);
      if (!model) throw new Error(`there is no model ${name}: use one of ${models.map((m) => m.name).join(", ")}`);
      return Array.from(model.network.forward(Float32Array.from(pixels)));
    },
  };
}
