// Where perturbations live, and how they are found: the spaces of the package, and projected gradient ascent.
//
// A space has a code to start from, bounds of each entry of a code, an epsilon, and a differentiable decoder from codes
// to images: `decode(code)`, and `backward(g)`, which turns the gradient with respect to the last decoded image into
// that with respect to its code.
"use strict";

// The image itself, all pixels in [0, 1].
function imageSpace(image, epsilon) {
  return { start: image, lower: () => 0, upper: () => 1, epsilon, decode: (code) => code, backward: (g) => g };
}

// The affine parameters (u, v, hx, hy, s, r) of a letter: translation, shear, scale and rotation, within a box.
function warpSpace(letter, height, width, parameters, box, epsilon) {
  const { decode, backward } = makeWarp(letter, height, width);
  return { start: parameters, lower: (i) => box.lower[i], upper: (i) => box.upper[i], epsilon, decode, backward };
}

// The code of an autoencoder.
function codeSpace(decoder, code, box, epsilon) {
  const { forward, backward } = decoder;
  return { start: code, lower: (i) => box.lower[i], upper: (i) => box.upper[i], epsilon, decode: forward, backward };
}

// Each pixel of a warped image samples the letter at the position A (x, y, 1), between four of its pixels.
//   A = [[s c - s hx n, -s n + s hx c, u], [s hy c + s n, -s hy n + s c, v]],  c = cos r,  n = sin r
function makeWarp(letter, height, width) {
  const pixel = (row, column) =>
    row >= 0 && row < height && column >= 0 && column < width ? letter[row * width + column] : 0;
  let parameters, slopes;
  return {
    decode(code) {
      parameters = code;
      const [u, v, hx, hy, s, r] = code, c = Math.cos(r), n = Math.sin(r);
      const a = [s * c - s * hx * n, s * hx * c - s * n, u], b = [s * hy * c + s * n, s * c - s * hy * n, v];
      const image = new Float32Array(height * width);
      slopes = new Float32Array(2 * height * width);  // how the value changes with the sampled x and y
      for (let i = 0, k = 0; i < height; i++) {
        const y = (2 * i) / (height - 1) - 1;
        for (let j = 0; j < width; j++, k++) {
          const x = (2 * j) / (width - 1) - 1;
          const column = ((a[0] * x + a[1] * y + a[2] + 1) / 2) * (width - 1);
          const row = ((b[0] * x + b[1] * y + b[2] + 1) / 2) * (height - 1);
          const left = Math.floor(column), top = Math.floor(row), p = column - left, q = row - top;
          const v00 = pixel(top, left), v01 = pixel(top, left + 1);
          const v10 = pixel(top + 1, left), v11 = pixel(top + 1, left + 1);
          image[k] = (1 - q) * ((1 - p) * v00 + p * v01) + q * ((1 - p) * v10 + p * v11);
          slopes[2 * k] = ((1 - q) * (v01 - v00) + q * (v11 - v10)) * (width - 1) / 2;
          slopes[2 * k + 1] = ((1 - p) * (v10 - v00) + p * (v11 - v01)) * (height - 1) / 2;
        }
      }
      return image;
    },
    backward(g) {
      const m = [0, 0, 0, 0, 0, 0];  // the gradient with respect to the six entries of A
      for (let i = 0, k = 0; i < height; i++) {
        const y = (2 * i) / (height - 1) - 1;
        for (let j = 0; j < width; j++, k++) {
          const x = (2 * j) / (width - 1) - 1, gx = g[k] * slopes[2 * k], gy = g[k] * slopes[2 * k + 1];
          m[0] += gx * x; m[1] += gx * y; m[2] += gx; m[3] += gy * x; m[4] += gy * y; m[5] += gy;
        }
      }
      const [, , hx, hy, s, r] = parameters, c = Math.cos(r), n = Math.sin(r);
      return Float32Array.of(
        m[2], m[5], s * (c * m[1] - n * m[0]), s * (c * m[3] - n * m[4]),
        m[0] * (c - hx * n) + m[1] * (hx * c - n) + m[3] * (hy * c + n) + m[4] * (c - hy * n),
        s * (-m[0] * (n + hx * c) - m[1] * (hx * n + c) + m[3] * (c - hy * n) - m[4] * (n + hy * c)),
      );
    },
  };
}

// The nearest code within epsilon of the start, in L-infinity, and inside of the bounds.
function project(space, code) {
  return code.map((value, i) => {
    const near = Math.min(Math.max(value, space.start[i] - space.epsilon), space.start[i] + space.epsilon);
    return Math.min(Math.max(near, space.lower(i)), space.upper(i));
  });
}

// Steps of Adam along a gradient of fixed scale: every entry moves by about the step size.
function makeAdam(length, stepSize) {
  const first = new Float32Array(length), second = new Float32Array(length);
  let count = 0;
  return (gradient) => {
    count++;
    return gradient.map((value, i) => {
      first[i] += 0.1 * (value - first[i]);
      second[i] += 0.001 * (value * value - second[i]);
      const moment = first[i] / (1 - 0.9 ** count), deviation = Math.sqrt(second[i] / (1 - 0.999 ** count));
      return (stepSize * moment) / (deviation + 1e-8);
    });
  };
}

// Projected gradient ascent on the cross-entropy of a label. Each call of the returned function takes one step, and
// returns the code, its image, and the logits there. `rule` is "adam" or "sign".
function makeAttack(network, space, label, stepSize, rule) {
  const adam = makeAdam(space.start.length, stepSize);
  let code = space.start;
  return () => {
    const logits = network.forward(space.decode(code));
    const gradient = space.backward(network.backward(crossEntropy(logits, label).gradient));
    const step = rule === "adam" ? adam(gradient) : gradient.map((value) => stepSize * Math.sign(value));
    code = project(space, code.map((value, i) => value + step[i]));
    const image = space.decode(code);
    return { code, image, logits: network.forward(image) };
  };
}

// The distance of an image to a manifold, by descents over its codes within the bounds: an upper bound of the true one.
// They are those of `manifolds.distance.project`, from each of the given codes.
function distanceTo(space, image, starts, steps = 100) {
  let nearest = Infinity;
  for (const start of starts) {
    for (const rate of [0.09, 0.03]) {
      const adam = makeAdam(start.length, rate);
      let code = start;
      for (let step = 0; step <= steps; step++) {
        const difference = space.decode(code).map((value, i) => value - image[i]);
        nearest = Math.min(nearest, Math.sqrt(difference.reduce((sum, value) => sum + value * value, 0)));
        const change = adam(space.backward(difference)), decay = 0.95 ** Math.floor(step / 10);
        code = code.map((value, i) => Math.min(Math.max(value - decay * change[i], space.lower(i)), space.upper(i)));
      }
    }
  }
  return nearest;
}
