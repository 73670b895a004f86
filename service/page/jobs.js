// Jobs: long work that goes on when the page is closed. The browser remembers them, and the page lists them again.

import { find, say } from "./controls.js";
import { saveAs, savedName } from "./names.js";
import * as service from "./service.js";

// Name under which the browser keeps the jobs that this page has submitted and not fetched yet.
const KEY = "jobs";
// Milliseconds between two looks at the listed jobs. Not by events: a browser has few connections to one server.
const PAUSE = 1000;

/** The remembered jobs, as { id, name, output }. name: of the original file. */
function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    // The browser keeps nothing, or not what this page has written.
    return [];
  }
}

/** Other tabs change the list too, so it is read again before each change. */
function change(changed) {
  const jobs = changed(remembered());
  try {
    if (jobs.length) localStorage.setItem(KEY, JSON.stringify(jobs));
    else localStorage.removeItem(KEY);
  } catch {
    // A reload of the page loses the job.
  }
}

const remember = (job) => change((jobs) => [...jobs, job]);
const forget = (id) => change((jobs) => jobs.filter((job) => job.id !== id));

/** Deletes a job: its result has arrived, or nobody wants it. */
function discard(id) {
  forget(id);
  service.deleteJob(id).catch(() => {});
}

/**
 * Denoises a file as a job. Returns the same as service.denoise.
 *
 * onProgress: called with the share that is done. If the connection is lost for long, the job is listed on the page.
 */
export async function denoiseAsJob(file, parameters, onProgress, signal) {
  const job = { name: file.name, output: parameters.output, id: (await service.submitJob(file, parameters, signal)).id };
  remember(job);
  try {
    const { error } = await service.followJob(job.id, ({ progress }) => onProgress(progress), signal);
    if (error) throw Object.assign(new Error(error.detail), { status: error.status });
    const result = await service.jobResult(job.id, signal);
    discard(job.id);
    return result;
  } catch (error) {
    // A key that is not accepted any more leaves the job as it is.
    if (signal.aborted || (error.status && error.status !== 401)) discard(job.id);
    else list(job);
    throw error;
  }
}

// The list on the page.

/** Lists the jobs of earlier visits, and those whose connection was lost. */
export function listRemembered() {
  for (const job of remembered()) list(job);
}

const listed = new Map();
let watching = false;

function list(job) {
  if (listed.has(job.id)) return;
  const item = find("job").content.firstElementChild.cloneNode(true);
  const button = (name) => item.querySelector(`.${name}`);
  item.querySelector(".file").textContent = job.name;
  button("save").setAttribute("aria-label", `Save ${job.name}`);
  button("discard").setAttribute("aria-label", `Discard ${job.name}`);
  button("save").addEventListener("click", () => saveListed(job));
  button("discard").addEventListener("click", () => {
    discard(job.id);
    unlist(job.id);
  });
  listed.set(job.id, { item, name: job.name, ended: false });
  find("job-list").append(item);
  find("jobs").hidden = false;
  if (!watching) watch();
}

function unlist(id) {
  listed.get(id)?.item.remove();
  listed.delete(id);
  find("jobs").hidden = !listed.size;
}

async function saveListed(job) {
  try {
    const { blob } = await service.jobResult(job.id);
    saveAs(blob, savedName(job.name, job.output, blob.type));
    discard(job.id);
    unlist(job.id);
    say(`Saved: ${savedName(job.name, job.output, blob.type)}`);
  } catch (error) {
    say(`${job.name}: ${error.message}`, true);
  }
}

async function watch() {
  watching = true;
  while ([...listed.values()].some(({ ended }) => !ended)) {
    for (const [id, entry] of listed) if (!entry.ended) await look(id, entry);
    await new Promise((resume) => setTimeout(resume, PAUSE));
  }
  watching = false;
}

/** Shows how far a listed job is. */
async function look(id, entry) {
  let job;
  try {
    job = await service.findJob(id);
  } catch (error) {
    if (error.status === 404) {
      forget(id);
      job = { state: "gone" };
    } else {
      describe(entry.item, "The server does not answer.");
      // Without a key, the user is asked for it, and the jobs are listed again.
      if (error.status === 401) unlist(id);
      return;
    }
  }
  entry.ended = !["waiting", "running"].includes(job.state);
  const percent = Math.round(100 * (job.progress ?? 0));
  const words = {
    waiting: "waiting",
    running: `${percent} % done`,
    done: "ready to save",
    failed: `failed: ${job.error?.detail}`,
    gone: "no longer on the server",
  };
  describe(entry.item, words[job.state]);
  // For screen readers. Each percent would be too much.
  if (entry.ended) find("job-news").textContent = `${entry.name}: ${words[job.state]}`;
  const progress = entry.item.querySelector("progress");
  progress.hidden = entry.ended;
  progress.value = job.progress ?? 0;
  entry.item.querySelector(".save").hidden = job.state !== "done";
}

function describe(item, words) {
  const state = item.querySelector(".state");
  if (state.textContent !== words) state.textContent = words;
}
