// Pages of the file on view: a slider, and buttons for the page before and after.

// Milliseconds without a move of the slider before its page is shown.
const REST = 80;

/**
 * Chooses the page on view. What is saved does not depend on it.
 *
 * elements: group, slider (a range input), before and after (buttons), words (an output). onTurn(page): another page
 * is to be shown.
 */
export class Pages {
  constructor(elements, onTurn) {
    Object.assign(this, elements, { onTurn });
    this.clear();
    this.slider.addEventListener("input", () => this.turn(this.slider.valueAsNumber));
    this.before.addEventListener("click", () => this.step(-1));
    this.after.addEventListener("click", () => this.step(1));
  }

  /** Without a file. */
  clear() {
    clearTimeout(this.resting);
    Object.assign(this, { count: 1, page: 1 });
    this.group.hidden = true;
  }

  /** Shows where the page on view is. */
  show(page, count) {
    Object.assign(this, { count, page });
    this.group.hidden = count < 2;
    this.slider.max = count;
    this.place();
  }

  /** Shows the page so many pages further. */
  step(by) {
    this.turn(Math.min(this.count, Math.max(1, this.page + by)));
  }

  turn(page) {
    if (page === this.page) return;
    this.page = page;
    this.place();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.onTurn(page), REST);
  }

  place() {
    const { page, count } = this;
    this.slider.value = page;
    this.slider.setAttribute("aria-valuetext", `${page} of ${count}`);
    this.words.value = `${page} of ${count}`;
    // A disabled button would lose the focus.
    this.before.setAttribute("aria-disabled", page === 1);
    this.after.setAttribute("aria-disabled", page === count);
  }
}
