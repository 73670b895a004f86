// Strip of images: an item for each file on the page.

import { find } from "./controls.js";
import { ImageFile, drawThumbnail } from "./images.js";
import { dropResults } from "./results.js";

const WORDS = { waiting: "", working: "processing", done: "saved", failed: "failed" };

/** All images on the page, in order. */
export const images = [];

/** Adds a file. onSelect(image): the user has selected it. onBroken(): its thumbnail shows that it cannot be opened. */
export function add(file, onSelect, onBroken) {
  const image = new ImageFile(file);
  image.item = find("item").content.firstElementChild.cloneNode(true);
  image.item.querySelector(".file").textContent = image.folder + file.name;
  image.item.querySelector(".kind").textContent = file.name.match(/\.(\w{1,4})$/)?.[1].toUpperCase() ?? "";
  image.item.querySelector("input").addEventListener("change", () => onSelect(image));
  images.push(image);
  find("strip").append(image.item);
  mark(image, "waiting");
  drawThumbnail(image, image.item.querySelector("canvas"), (error) => {
    markBroken(image, error.message);
    onBroken();
  });
  update();
  return image;
}

/** The images that can be opened, as far as is known. */
export const usable = () => images.filter(({ broken }) => !broken);

/** Shows that a file cannot be opened. It does not count any more. */
export function markBroken(image, message) {
  image.broken = true;
  mark(image, "failed", message);
  update();
}

/** Removes an image. Returns the one to show next, if there is one. */
export function remove(image) {
  const index = images.indexOf(image);
  images.splice(index, 1);
  image.item.remove();
  dropResults(image);
  update();
  return images[index] ?? images[index - 1];
}

/** Shows the state of an image on its item. */
export function mark(image, state, detail = "") {
  Object.assign(image, { state, detail });
  image.item.dataset.state = state;
  image.item.querySelector(".state").textContent = WORDS[state] && `, ${WORDS[state]}`;
  image.item.title = image.folder + (detail ? `${image.file.name}: ${detail}` : image.file.name);
}

/** Marks an image as the selected one. */
export function select(image) {
  image.item.querySelector("input").checked = true;
  image.item.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function update() {
  const count = usable().length;
  find("strip").hidden = !images.length;
  find("download-all").hidden = count < 2;
  find("download-all").textContent = `Download all ${count}`;
}
