// Names of the files that the page saves, and the saving itself.

// Milliseconds until a saved file's memory is freed. Some browsers read it a little later than the click.
const KEPT = 30_000;
const SUFFIXES = { clean: "denoised", compare: "compared", residual: "removed" };

/** The name of a saved file. name: of the original. output: clean, compare or residual. type: its media type. */
export function savedName(name, output, type) {
  const ending = { "image/jpeg": "jpg" }[type] ?? type.replace(/^image\//, "").replace(/[^a-z0-9].*$/, "");
  return `${name.replace(/\.[^.]*$/, "") || "image"}-${SUFFIXES[output]}.${ending}`;
}

/** Hands a blob to the browser, which saves it as a download. */
export function saveAs(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT);
}
