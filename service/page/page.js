// The page: pictures come in, one is looked at, and what the service makes of them is saved.

import { Picture, close, drawThumbnail, fillThumbnail, open, sampleOf } from "./pictures.js";
import { Preview } from "./preview.js";
import * as service from "./service.js";
import { View } from "./view.js";

const find = (id) => document.getElementById(id);
const SETTINGS = ["strength", "luma", "chroma"];
// Moving about asks for nothing until it has come to rest.
const REST = 120;
// What is larger, in bytes or pixels, is left with the service as a job, which tells how far it is.
const LARGE = { bytes: 8e6, pixels: 4e6 };
const MAY_HAVE_PAGES = /\.(tiff?|gif|webp|apng|avif)$/i;

const pictures = [];
// The picture that is looked at; its pixels once they are there; the request that fetches them, and whether it still
// does; what the service sees in it, a promise; the timer that waits for rest; the request that saves.
let current = null;
let opened = null;
let opening = null;
let reading = false;
let examined = null;
let resting = null;
let work = null;

const preview = new Preview(showPreview, (error) => say(error.message, true));
const jobs = service.takesJobs().catch(() => false);
let listing = list();
const view = new View(
  { viewport: find("viewport"), canvas: find("canvas"), split: find("split"), handle: find("handle") },
  viewMoved
);

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

// What is asked for.

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

/** The model's name, unless it is the one that is used anyway. */
function model() {
  const option = find("model").selectedOptions[0];
  return option?.defaultSelected ? undefined : option?.value;
}

/** The page of a document, or the frame of an animation, that is wanted alone. */
function page() {
  const { value, valueAsNumber, validity } = find("page");
  return find("page-choice").hidden || !value || !validity.valid ? undefined : valueAsNumber;
}

/** The name of what chooses the model by the noise, if that is asked for. */
function choice() {
  const option = find("model").selectedOptions[0];
  return option?.dataset.kind === "choice" ? option.value : undefined;
}

/** What a request says, less what the service does anyway. */
function parameters() {
  const unlessUsual = (id, usual) => (find(id).value === usual ? undefined : find(id).value);
  const shares = SETTINGS.map((id) => [id, find(id).value === "100" ? undefined : find(id).value / 100]);
  return {
    model: model(),
    ...Object.fromEntries(shares),
    output: unlessUsual("output", "clean"),
    format: unlessUsual("format", "png"),
    quality: find("quality-choice").hidden ? undefined : unlessUsual("quality", "usual"),
    page: page(),
  };
}

function settingsChanged() {
  const shares = Object.fromEntries(SETTINGS.map((id) => [id, find(id).value / 100]));
  const removed = chosen("look") === "removed";
  view.setLook({ ...shares, removed: removed ? preview.gain : 0 });
  find("tag-removed").textContent = preview.gain > 1 ? `removed, ${preview.gain} times as strong` : "removed";
  for (const id of SETTINGS) find(`${id}-percent`).textContent = `${find(id).value} %`;
  find("reset").hidden = SETTINGS.every((id) => find(id).value === "100");
  find("stage").classList.toggle("removed", removed);
  find("quality-choice").hidden = !["jpeg", "webp", "avif", "same"].includes(find("format").value);
  const address = new URL(service.address(parameters()), location.href).href;
  const quoted = address.includes("?") ? `'${address}'` : address;
  const key = service.hasKey() ? '-H "Authorization: Bearer $KEY" ' : "";
  find("curl").textContent = `curl ${key}-F image=@noisy.jpg ${quoted} -o clean.png`;
}

// The picture that is looked at.

/** Look at a picture, or at nothing. */
async function look(picture) {
  opening?.abort();
  const mine = new AbortController();
  opening = mine;
  forget();
  current = picture;
  if (!work) say("");
  reading = Boolean(picture);
  showPreview();
  find("desk").hidden = find("panel").hidden = !picture;
  document.body.classList.toggle("open", Boolean(picture));
  if (!picture) return;
  find("page-choice").hidden = !MAY_HAVE_PAGES.test(picture.file.name);
  find("name").textContent = picture.file.name;
  find("facts").textContent = inUnits(picture.file.size);
  find("noise").textContent = "";
  notice("Reading …");
  try {
    const bitmaps = await open(picture.file, page(), mine.signal);
    if (mine.signal.aborted) return close(bitmaps);
    present(picture, bitmaps, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    reading = false;
    showPreview();
    mark(picture, "failed", error.message);
    notice("This picture cannot be shown.");
    say(`${picture.file.name}: ${error.message}`, true);
  }
}

function present(picture, bitmaps, signal) {
  opened = bitmaps;
  reading = false;
  const { width, height } = bitmaps.pixels;
  picture.pixels = width * height;
  const facts = [`${width} × ${height}`, `${((width * height) / 1e6).toFixed(1)} Mpx`];
  find("facts").textContent = [...facts, inUnits(picture.file.size)].join(", ");
  fillThumbnail(picture.item.querySelector("canvas"), bitmaps.overview);
  notice("");
  examined = examine(bitmaps.pixels, signal);
  tellNoise().catch((error) => !signal.aborted && say(error.message, true));
  preview.show(bitmaps.pixels);
  view.show(bitmaps, preview.squares);
}

/** The noise that was found, and the model that is chosen for it, if one is. */
async function tellNoise() {
  const asked = opened;
  const { words, models } = await examined;
  await listing;
  if (opened !== asked) return;
  const taken = models[choice()];
  find("noise").textContent = taken ? `${words} Model: ${taken}` : words;
}

async function examine(pixels, signal) {
  return service.examine(await sampleOf(pixels), signal);
}

/** Let go of the pixels of the one before. */
function forget() {
  clearTimeout(resting);
  preview.show(null);
  view.show(null);
  if (opened) close(opened);
  opened = null;
  resting = null;
}

function notice(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
  find("stage").classList.toggle("blank", Boolean(text));
}

function inUnits(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function viewMoved() {
  const percent = view.scale * 100;
  find("scale").value = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
  find("fit").setAttribute("aria-pressed", view.fitted);
  find("actual").setAttribute("aria-pressed", view.scale === 1);
  clearTimeout(resting);
  resting = setTimeout(wantVisible, REST);
  showPreview();
}

/** Another model is taken: what is seen and what is told follow. */
function modelChanged() {
  wantVisible();
  // That the noise could not be found was told when it was tried.
  if (opened) tellNoise().catch(() => {});
}

async function wantVisible() {
  const asked = opened;
  // That it could not be examined was told when it was tried.
  const name = await modelSeen().catch(() => model());
  // When another picture is looked at meanwhile, this is done again.
  if (!asked || opened !== asked) return;
  resting = null;
  preview.want(view.visible, view.level, name);
}

/** The model for the whole picture: where the service chooses, it would choose for each part anew. */
async function modelSeen() {
  await listing;
  return choice() ? (await examined).models[choice()] : model();
}

function showPreview() {
  const { progress } = preview;
  find("preview").value = progress;
  find("preview").hidden = progress === 1;
  find("viewport").setAttribute("aria-busy", reading || resting !== null || progress < 1);
  if (view.look?.removed && view.look.removed !== preview.gain) settingsChanged();
  view.draw();
}

// The pictures there are.

function take(files) {
  if (!files.length) return say("That was no file. Drop or paste pictures, or choose files.", true);
  const added = [...files].map((file) => new Picture(file));
  for (const picture of added) {
    pictures.push(picture);
    addItem(picture);
  }
  listed();
  select(added[0]);
  if (added.length > 1) say(`${added.length} pictures came in.`);
}

function addItem(picture) {
  picture.item = find("item").content.firstElementChild.cloneNode(true);
  picture.item.querySelector(".file").textContent = picture.file.name;
  picture.item.querySelector(".kind").textContent = picture.file.name.match(/\.(\w{1,4})$/)?.[1].toUpperCase() ?? "";
  picture.item.querySelector("input").addEventListener("change", () => look(picture));
  find("strip").append(picture.item);
  mark(picture, "waiting");
  drawThumbnail(picture.file, picture.item.querySelector("canvas"));
}

function mark(picture, state, detail = "") {
  const words = { waiting: "", working: "in work", done: "saved", failed: "failed" }[state];
  Object.assign(picture, { state, detail });
  picture.item.dataset.state = state;
  picture.item.querySelector(".state").textContent = words && `, ${words}`;
  picture.item.title = detail ? `${picture.file.name}: ${detail}` : picture.file.name;
}

function select(picture) {
  picture.item.querySelector("input").checked = true;
  picture.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  look(picture);
}

function remove(picture) {
  const place = pictures.indexOf(picture);
  pictures.splice(place, 1);
  picture.item.remove();
  listed();
  const next = pictures[place] ?? pictures[place - 1];
  if (next) select(next);
  else look(null);
}

function listed() {
  find("strip").hidden = !pictures.length;
  find("download-all").hidden = pictures.length < 2;
  find("download-all").textContent = `Download all ${pictures.length}`;
}

// What is saved: always the service's own answer for the whole file.

async function save(wanted) {
  work?.abort();
  const mine = new AbortController();
  work = mine;
  const clock = startClock(wanted.length);
  const failed = [];
  for (const [done, picture] of wanted.entries()) {
    if (mine.signal.aborted) break;
    if (wanted.length > 1) find("progress").value = done;
    say(wanted.length > 1 ? `Denoising ${done + 1} of ${wanted.length}: ${picture.file.name} …` : "Denoising …");
    const told = (share) => share && !mine.signal.aborted && (find("progress").value = done + share);
    if (!(await saveOne(picture, told, mine.signal))) failed.push(picture);
  }
  clearInterval(clock);
  // When something else was begun meanwhile, what is said belongs to that.
  if (work !== mine) return;
  work = null;
  find("work").hidden = true;
  if (mine.signal.aborted) say("Cancelled.");
  else if (failed.length) say(failure(wanted, failed), true);
  else say(wanted.length > 1 ? `All ${wanted.length} pictures are saved.` : `Saved: ${wanted[0].detail}`);
}

/** Whether it was saved. told: hears how far it is, if the service says so. */
async function saveOne(picture, told, signal) {
  mark(picture, "working");
  try {
    const { output = "clean", ...others } = parameters();
    const wishes = { output, ...others };
    const { picture: blob, headers } = (await jobs) && isLarge(picture)
      ? await service.denoiseAsJob(picture.file, wishes, told, signal)
      : await service.denoise(picture.file, wishes, signal);
    const name = picture.savedName(output, blob.type);
    hand(blob, name);
    const seconds = Number(headers.get("X-Denoise-Seconds")).toFixed(1);
    const by = decodeURIComponent(headers.get("X-Denoise-Model"));
    const said = [`${name}, by ${by} in ${seconds} s`, headers.get("X-Denoise-Changed")];
    mark(picture, "done", said.filter(Boolean).join("; "));
    if (picture === current && opened) seenAsSaved(by);
    return true;
  } catch (error) {
    mark(picture, signal.aborted ? "waiting" : "failed", signal.aborted ? "" : error.message);
    return false;
  }
}

const isLarge = ({ file, pixels = 0 }) => file.size > LARGE.bytes || pixels > LARGE.pixels;

/** Where the service chose otherwise for the whole than for the sample, what is seen follows. */
async function seenAsSaved(name) {
  const asked = opened;
  if (!choice() || (await modelSeen()) === name || opened !== asked) return;
  examined = examined.then((seen) => ({ ...seen, models: { ...seen.models, [choice()]: name } }));
  modelChanged();
}

function failure(wanted, failed) {
  const first = `${failed[0].file.name}: ${failed[0].detail}`;
  if (wanted.length === 1) return first;
  return `${wanted.length - failed.length} of ${wanted.length} are saved, ${failed.length} failed. ${first}`;
}

/** To the browser, which puts it where downloads go. */
function hand(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // Some browsers read it only a little later.
  setTimeout(() => URL.revokeObjectURL(link.href), 30_000);
}

function startClock(count) {
  find("work").hidden = false;
  if (count > 1) find("progress").max = count;
  else find("progress").removeAttribute("value");
  const start = Date.now();
  const tick = () => {
    find("elapsed").textContent = `${Math.round((Date.now() - start) / 1000)} s`;
  };
  tick();
  return setInterval(tick, 1000);
}

/** List the models; what is wrong is said. */
function list() {
  return listModels().catch((error) => say(error.message, true));
}

/** The choice of models, if there is one. */
async function listModels() {
  const options = (await service.models()).map(({ name, kind, default: usual }) => {
    const option = new Option(kind === "choice" ? `${name}: by the noise` : name, name, usual, usual);
    option.dataset.kind = kind;
    return option;
  });
  find("model").replaceChildren(...options);
  find("model-choice").hidden = options.length < 2;
  settingsChanged();
}

// What people do.

find("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files);
  // So that the same file can be chosen again.
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  // Text may be meant for the field that has the focus.
  if (files.length || event.target.localName !== "input") take(files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const end of ["dragleave", "dragend", "drop"]) {
  document.addEventListener(end, () => document.body.classList.remove("dragging"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});

find("panel").addEventListener("input", settingsChanged);
find("look").addEventListener("change", settingsChanged);
find("model").addEventListener("change", modelChanged);
find("page").addEventListener("change", () => look(current));
find("reset").addEventListener("click", () => {
  for (const id of SETTINGS) find(id).value = 100;
  settingsChanged();
  find("strength").focus();
});
find("in").addEventListener("click", () => opened && view.step(true));
find("out").addEventListener("click", () => opened && view.step(false));
find("fit").addEventListener("click", () => opened && view.fit());
find("actual").addEventListener("click", () => opened && view.zoom(1));
find("remove").addEventListener("click", () => remove(current));
find("download").addEventListener("click", () => save([current]));
find("download-all").addEventListener("click", () => save([...pictures]));
find("cancel").addEventListener("click", () => work?.abort());
document.addEventListener("keydown", (event) => event.key === "Escape" && work?.abort());

document.addEventListener("keywanted", () => {
  if (!find("entry").hidden) return;
  find("entry").hidden = false;
  find("key").focus();
});
find("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  service.useKey(find("key").value);
  find("entry").hidden = true;
  find("key").value = "";
  say("");
  listing = list();
  if (current) look(current);
});

settingsChanged();
