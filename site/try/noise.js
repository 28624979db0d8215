// The noise that a picture starts from: the same numbers as torch.randn gives for the same seed on a CPU.

const WORDS = 624, SHIFTED = 397;

// Mersenne Twister (Matsumoto and Nishimura 1998), which PyTorch's CPU generator is: 32 random bits at a call.
export function twister(seed) {
  const state = new Uint32Array(WORDS);
  state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
  for (let i = 1; i < WORDS; i++) {
    const s = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, s) + i;
  }
  let at = WORDS;
  const refill = () => {
    for (let i = 0; i < WORDS; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % WORDS] & 0x7fffffff);
      state[i] = state[(i + SHIFTED) % WORDS] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  };
  return () => {
    if (at === WORDS) refill();
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// Sixteen uniform numbers become sixteen normal ones, in PyTorch's order (Box and Muller 1958).
function boxMuller(x, at) {
  for (let j = at; j < at + 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - x[j])), angle = 2 * Math.PI * x[j + 8];
    x[j] = radius * Math.cos(angle);
    x[j + 8] = radius * Math.sin(angle);
  }
}

// n normal numbers, n at least 16.
export function normal(n, seed) {
  const bits = twister(seed), x = new Float32Array(n);
  const uniform = () => (bits() & 0xffffff) / 0x1000000;
  for (let i = 0; i < n; i++) x[i] = uniform();
  for (let i = 0; i + 16 <= n; i += 16) boxMuller(x, i);
  if (n % 16) {
    for (let i = n - 16; i < n; i++) x[i] = uniform();
    boxMuller(x, n - 16);
  }
  return x;
}
