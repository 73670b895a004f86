// Files that the user drops, pastes or chooses, also in folders.

import { find } from "./controls.js";

/**
 * The files of a drop, as { files, others }. others: number of files in dropped folders that are no images.
 *
 * Each file of a folder gets `folder`, the path of its folder. Call it while the event is handled: later the browser
 * has forgotten the files.
 */
export function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return { files: [...transfer.files], others: 0 };
  return filesOfEntries(entries);
}

/** The same for a chosen folder. */
export function filesOfFolder(list) {
  return onlyImages([...list].map((file) => at(file, file.webkitRelativePath)));
}

async function filesOfEntries(entries) {
  const [single, inFolders] = [[], []];
  for (const entry of entries) {
    if (entry.isDirectory) await walk(entry, inFolders);
    else single.push(await fileOf(entry));
  }
  const { files, others } = onlyImages(inFolders);
  return { files: [...single, ...files], others };
}

async function walk(folder, files) {
  const reader = folder.createReader();
  const entries = [];
  for (;;) {
    // A reader returns a part of its entries at a time.
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) break;
    entries.push(...part);
  }
  for (const entry of entries.sort((a, b) => byName(a.name, b.name))) {
    if (entry.isDirectory) await walk(entry, files);
    else files.push(at(await fileOf(entry), entry.fullPath.slice(1)));
  }
}

const fileOf = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));

const at = (file, path) => Object.assign(file, { folder: path.slice(0, path.lastIndexOf("/") + 1) });

/** Folders also hold other files. A hidden file is none that the user has put there. */
function onlyImages(all) {
  const suffixes = find("file").accept.split(",").map((part) => part.trim()).filter((part) => part.startsWith("."));
  const visible = all.filter(({ name, folder }) => !/(^|\/)\./.test(folder + name));
  const files = visible.filter(
    ({ name, type }) => type.startsWith("image/") || suffixes.some((suffix) => name.toLowerCase().endsWith(suffix))
  );
  return { files: files.sort((a, b) => byName(a.folder + a.name, b.folder + b.name)), others: visible.length - files.length };
}

const byName = new Intl.Collator(undefined, { numeric: true }).compare;
