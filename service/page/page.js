"use strict";

const find = (id) => document.getElementById(id);

// What is on the way, and what is shown: the file, the request that can be cancelled, addresses to let go of.
let current = null;
let request = null;
let addresses = [];

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

function addressOf(blob) {
  const address = URL.createObjectURL(blob);
  addresses.push(address);
  return address;
}

/** Show the image; false if the browser cannot (most know no TIFF). */
async function show(image, blob) {
  image.src = addressOf(blob);
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  }
}

/** The words in an answer that is no picture. */
async function reasonIn(response) {
  try {
    return (await response.json()).detail;
  } catch {
    return `The server answered with ${response.status}.`;
  }
}

async function denoise(file, signal) {
  const model = find("model").value;
  const query = model ? `?model=${encodeURIComponent(model)}` : "";
  let response;
  try {
    response = await fetch(`denoise${query}`, { method: "POST", body: file, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("The server cannot be reached, or broke off.");
  }
  if (!response.ok) throw new Error(await reasonIn(response));
  return { picture: await response.blob(), headers: response.headers };
}

function startClock() {
  const start = Date.now();
  const tick = () => {
    find("elapsed").textContent = `${Math.round((Date.now() - start) / 1000)} s`;
  };
  tick();
  return setInterval(tick, 1000);
}

async function take(file) {
  request?.abort();
  const mine = new AbortController();
  request = mine;
  current = file;
  find("result").hidden = true;
  find("work").hidden = false;
  say(`Denoising ${file.name} …`);
  const clock = startClock();
  try {
    await present(file, await denoise(file, mine.signal));
  } catch (error) {
    // When another picture took this one's place, what is said belongs to the other.
    if (request === mine) say(mine.signal.aborted ? "Cancelled." : error.message, !mine.signal.aborted);
  } finally {
    clearInterval(clock);
    if (request === mine) find("work").hidden = true;
  }
}

async function present(file, { picture, headers }) {
  addresses.splice(0).forEach((address) => URL.revokeObjectURL(address));
  find("result").hidden = false;
  const after = find("after");
  const shown = await Promise.all([show(after, picture), show(find("before"), file)]);
  find("result").classList.toggle("alone", !shown[1]);
  find("download").href = after.src;
  find("download").download = `${file.name.replace(/\.[^.]*$/, "") || "picture"}-denoised.png`;
  const seconds = Number(headers.get("X-Denoise-Seconds")).toFixed(1);
  const name = decodeURIComponent(headers.get("X-Denoise-Model"));
  find("facts").textContent = `${after.naturalWidth} × ${after.naturalHeight}, ${name}, ${seconds} s`;
  find("drop").classList.add("small");
  say(
    shown[1]
      ? "Done. Drag across the picture to compare, or use the arrow keys."
      : "Done. This browser cannot show the picture as it came, so there is nothing to compare with."
  );
  find("split").focus({ preventScroll: true });
}

function takeFirst(files) {
  if (files.length) take(files[0]);
  else say("That was no file. Drop or paste a picture, or choose a file.", true);
}

/** The choice of models, if there is one. */
async function listModels() {
  const response = await fetch("models");
  const models = response.ok ? await response.json() : [];
  const options = models.map(({ name, default: chosen }) => new Option(name, name, chosen, chosen));
  find("model").replaceChildren(...options);
  find("model-choice").hidden = models.length < 2;
}

find("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files[0]);
  // So that the same file can be chosen again.
  event.target.value = "";
});
find("model").addEventListener("change", () => current && take(current));
find("cancel").addEventListener("click", () => request.abort());
find("split").addEventListener("input", (event) => {
  find("compare").style.setProperty("--split", `${event.target.value}%`);
});
find("actual").addEventListener("click", (event) => {
  const actual = find("stage").classList.toggle("actual");
  event.target.setAttribute("aria-pressed", actual);
});

document.addEventListener("paste", (event) => takeFirst(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const end of ["dragleave", "dragend", "drop"]) {
  document.addEventListener(end, () => document.body.classList.remove("dragging"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  takeFirst(event.dataTransfer.files);
});

find("curl").textContent = `curl -F image=@noisy.jpg ${new URL("denoise", location.href)} -o clean.png`;
listModels().catch(() => say("The server cannot be reached.", true));
