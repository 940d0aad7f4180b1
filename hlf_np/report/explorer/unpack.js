// Arrays and networks from the page's data, where Python packed them.
"use strict";

function unpackArray({ integers, floats, scale }) {
  const bytes = Uint8Array.from(atob(floats ?? integers), (letter) => letter.charCodeAt(0));
  return floats ? new Float32Array(bytes.buffer) : Float32Array.from(new Int16Array(bytes.buffer), (i) => i * scale);
}

// The same description with Float32Arrays in place of packed arrays.
function unpackLayer(layer) {
  const isPacked = (value) => value !== null && typeof value === "object" && ("floats" in value || "integers" in value);
  return Object.fromEntries(Object.entries(layer).map(([name, value]) => {
    if (isPacked(value)) return [name, unpackArray(value)];
    return [name, name === "body" || name === "shortcut" ? value.map(unpackLayer) : value];
  }));
}

const unpackNetwork = (layers) => makeNetwork(layers.map(unpackLayer));
const unpackImage = (text) => Float32Array.from(atob(text), (letter) => letter.charCodeAt(0) / 255);
