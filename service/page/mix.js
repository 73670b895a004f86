// How strength, luminance and colour go together, as in the service: so that what is shown follows at once.

// The share of each channel in brightness, the service's own.
const [RED, GREEN, BLUE] = [0.299, 0.587, 0.114];

/**
 * What is shown of some pixels; the service mixes before it clips and rounds, so its own may differ by a step of 255,
 * and by more at black and white.
 *
 * noisy, clean, shown: RGBA bytes of the same pixels; shown is written. strength, luma, chroma: 0 to 1, as the service
 * takes them. removed: 0, or so many times as strong what is taken away, around middle grey.
 */
export function mix(noisy, clean, shown, { strength, luma, chroma, removed }) {
  const [from, gain] = removed ? [0, -removed] : [1, 1];
  const ground = removed ? 128 : 0;
  const own = gain * strength * chroma;
  const shared = gain * strength * (luma - chroma);
  for (let i = 0; i < noisy.length; i += 4) {
    const red = clean[i] - noisy[i];
    const green = clean[i + 1] - noisy[i + 1];
    const blue = clean[i + 2] - noisy[i + 2];
    const all = ground + shared * (RED * red + GREEN * green + BLUE * blue);
    shown[i] = from * noisy[i] + all + own * red;
    shown[i + 1] = from * noisy[i + 1] + all + own * green;
    shown[i + 2] = from * noisy[i + 2] + all + own * blue;
    shown[i + 3] = noisy[i + 3];
  }
}
