// Mixes the noisy and the denoised image in the browser, so that the view follows the sliders at once.

// Weight of each channel in luminance. The service has the same weights.
const RED = 0.299;
const GREEN = 0.587;
const BLUE = 0.114;

/**
 * Writes the pixels that the page shows.
 *
 * The service mixes before it clips and rounds. So its result can differ by 1 of 255, and by more at black and white.
 *
 * noisy, clean, shown: RGBA bytes of the same pixels. shown is written. strength, luma, chroma: 0 to 1, as in the
 * service. removed: 0, or the factor that amplifies the removed noise around mid-grey.
 */
export function mix(noisy, clean, shown, { strength, luma, chroma, removed }) {
  const [base, gain] = removed ? [0, -removed] : [1, 1];
  const offset = removed ? 128 : 0;
  const own = gain * strength * chroma;
  const shared = gain * strength * (luma - chroma);
  for (let i = 0; i < noisy.length; i += 4) {
    const red = clean[i] - noisy[i];
    const green = clean[i + 1] - noisy[i + 1];
    const blue = clean[i + 2] - noisy[i + 2];
    const grey = offset + shared * (RED * red + GREEN * green + BLUE * blue);
    shown[i] = base * noisy[i] + grey + own * red;
    shown[i + 1] = base * noisy[i + 1] + grey + own * green;
    shown[i + 2] = base * noisy[i + 2] + grey + own * blue;
    shown[i + 3] = noisy[i + 3];
  }
}
