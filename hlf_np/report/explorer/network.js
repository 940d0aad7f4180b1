// Networks in evaluation mode, for one image at a time: forward passes, and gradients with respect to the input.
//
// Activations are Float32Arrays, channels first (channel, row, column), as PyTorch stores them; so flattening an image
// changes nothing. Each layer is an object with two functions that stand side by side: `forward(x)` returns the output
// and remembers what the gradient needs; `backward(g)` takes the gradient of some number with respect to the output of
// the last forward pass, and returns its gradient with respect to the input. Weights never change.
"use strict";

// A layer from its description: its kind, sizes, and weights as Float32Arrays.
function makeLayer(layer) {
  return {
    convolution, transposed_convolution: transposedConvolution, batch_norm: batchNorm, linear, relu, sigmoid,
    max_pool: maxPool, average_pool: averagePool, residual,
  }[layer.kind](layer);
}

function makeNetwork(layers) {
  const made = layers.map(makeLayer);
  return {
    forward: (x) => made.reduce((value, layer) => layer.forward(value), x),
    backward: (g) => made.reduceRight((value, layer) => layer.backward(value), g),
  };
}

// y[o, i, j] = bias[o] + sum over c, a, b of weight[o, c, a, b] x[c, i stride + a - padding, j stride + b - padding]
//
// For each output pixel, the inputs in its window are copied to a *patch*, one after the other as in the weights of an
// output channel, so that each output is the product of two rows of numbers, which is fast.
function convolution({ weight, bias, input, output, kernel, stride, padding }) {
  const [channels, height, width] = input, [outChannels, outHeight, outWidth] = output;
  const size = channels * height * width, count = outHeight * outWidth, length = channels * kernel * kernel;
  const places = windowPlaces(input, output, kernel, stride, padding);
  const patch = new Float32Array(length), padded = new Float32Array(size + 1);  // the last entry is the zero outside
  return {
    forward(x) {
      const y = new Float32Array(outChannels * count);
      padded.set(x);
      for (let k = 0; k < count; k++) {
        for (let i = 0; i < length; i++) patch[i] = padded[places[k * length + i]];
        for (let o = 0; o < outChannels; o++) {
          let sum = bias ? bias[o] : 0;
          for (let i = 0, at = o * length; i < length; i++, at++) sum += weight[at] * patch[i];
          y[o * count + k] = sum;
        }
      }
      return y;
    },
    backward(g) {
      const dx = new Float32Array(size + 1);
      for (let k = 0; k < count; k++) {
        patch.fill(0);
        for (let o = 0; o < outChannels; o++) {
          const value = g[o * count + k];
          if (value !== 0) for (let i = 0, at = o * length; i < length; i++, at++) patch[i] += weight[at] * value;
        }
        for (let i = 0; i < length; i++) dx[places[k * length + i]] += patch[i];
      }
      return dx.subarray(0, size);
    },
  };
}

// The index in the input of each entry of each patch; `size` for those outside of the image.
function windowPlaces([channels, height, width], [, outHeight, outWidth], kernel, stride, padding) {
  const places = new Int32Array(outHeight * outWidth * channels * kernel * kernel);
  let at = 0;
  for (let i = 0; i < outHeight; i++)
    for (let j = 0; j < outWidth; j++)
      for (let c = 0; c < channels; c++)
        for (let a = 0; a < kernel; a++)
          for (let b = 0; b < kernel; b++) {
            const row = i * stride + a - padding, column = j * stride + b - padding;
            const isInside = row >= 0 && row < height && column >= 0 && column < width;
            places[at++] = isInside ? (c * height + row) * width + column : channels * height * width;
          }
  return places;
}

// The transpose of a convolution: forward spreads what a convolution's backward pass would collect, and vice versa.
function transposedConvolution({ weight, bias, input, output, kernel, stride, padding }) {
  const transpose = convolution({ weight, bias: null, input: output, output: input, kernel, stride, padding });
  const [outChannels, outHeight, outWidth] = output, size = outHeight * outWidth;
  return {
    forward(x) {
      const y = transpose.backward(x);
      for (let o = 0; o < outChannels; o++) for (let i = 0; i < size; i++) y[o * size + i] += bias[o];
      return y;
    },
    backward: (g) => transpose.forward(g),
  };
}

// y = scale x + shift, for each channel; in evaluation mode, batch norm is no more than that.
function batchNorm({ scale, shift, input }) {
  const size = input.length > 1 ? input[1] * input[2] : 1;
  return {
    forward: (x) => x.map((value, i) => scale[(i / size) | 0] * value + shift[(i / size) | 0]),
    backward: (g) => g.map((value, i) => scale[(i / size) | 0] * value),
  };
}

// y = weight x + bias
function linear({ weight, bias }) {
  const outputs = bias.length, inputs = weight.length / outputs;
  return {
    forward(x) {
      const y = Float32Array.from(bias);
      for (let o = 0; o < outputs; o++) {
        let sum = 0;
        for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[i];
        y[o] += sum;
      }
      return y;
    },
    backward(g) {
      const dx = new Float32Array(inputs);
      for (let o = 0; o < outputs; o++) for (let i = 0; i < inputs; i++) dx[i] += weight[o * inputs + i] * g[o];
      return dx;
    },
  };
}

function relu() {
  let positive;
  return {
    forward: (x) => { positive = x.map((value) => (value > 0 ? 1 : 0)); return x.map((value) => Math.max(value, 0)); },
    backward: (g) => g.map((value, i) => value * positive[i]),
  };
}

// y = 1 / (1 + exp(-x)), whose derivative is y (1 - y)
function sigmoid() {
  let y;
  return {
    forward: (x) => (y = x.map((value) => 1 / (1 + Math.exp(-value)))),
    backward: (g) => g.map((value, i) => value * y[i] * (1 - y[i])),
  };
}

// The largest value of each window; the gradient goes to where it was.
function maxPool({ input, output, kernel, stride }) {
  const [channels, height, width] = input, [, outHeight, outWidth] = output;
  let chosen;
  return {
    forward(x) {
      const y = new Float32Array(channels * outHeight * outWidth).fill(-Infinity);
      chosen = new Int32Array(y.length);
      for (let c = 0, k = 0; c < channels; c++)
        for (let i = 0; i < outHeight; i++)
          for (let j = 0; j < outWidth; j++, k++)
            for (let a = 0; a < kernel; a++)
              for (let b = 0; b < kernel; b++) {
                const at = (c * height + i * stride + a) * width + j * stride + b;
                if (x[at] > y[k]) { y[k] = x[at]; chosen[k] = at; }
              }
      return y;
    },
    backward(g) {
      const dx = new Float32Array(channels * height * width);
      g.forEach((value, k) => { dx[chosen[k]] += value; });
      return dx;
    },
  };
}

// The mean of each window: a convolution of each channel with equal weights.
function averagePool({ input, output, kernel, stride }) {
  const [channels, height, width] = input, [, outHeight, outWidth] = output;
  const one = convolution({
    weight: new Float32Array(kernel * kernel).fill(1 / (kernel * kernel)), bias: null, input: [1, height, width],
    output: [1, outHeight, outWidth], kernel, stride, padding: 0,
  });
  const ofEachChannel = (values, pass) => {
    const size = values.length / channels, results = [];
    for (let c = 0; c < channels; c++) results.push(pass(values.subarray(c * size, (c + 1) * size)));
    return Float32Array.from(results.flatMap((part) => [...part]));
  };
  return { forward: (x) => ofEachChannel(x, one.forward), backward: (g) => ofEachChannel(g, one.backward) };
}

// y = relu(body(x) + shortcut(x))
function residual({ body, shortcut }) {
  const main = makeNetwork(body), side = makeNetwork(shortcut), last = relu();
  const sum = (a, b) => a.map((value, i) => value + b[i]);
  return {
    forward: (x) => last.forward(sum(main.forward(x), side.forward(x))),
    backward: (g) => { const h = last.backward(g); return sum(main.backward(h), side.backward(h)); },
  };
}

// --- Classification -----------------------------------------------------------------------------------------------

function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

function softmax(logits) {
  const largest = Math.max(...logits), powers = Array.from(logits, (value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// The cross-entropy -log p[label] and its gradient with respect to the logits: p - 1 at the label, p elsewhere.
function crossEntropy(logits, label) {
  const probabilities = softmax(logits);
  const gradient = Float32Array.from(probabilities, (p, i) => p - (i === label ? 1 : 0));
  return { loss: -Math.log(Math.max(probabilities[label], 1e-38)), gradient };
}
