/** Runs tasks in order, a few at a time. */
export class Queue {
  /** @param {number} limit how many tasks run at once */
  constructor(limit) {
    this.limit = limit;
    this.running = 0;
    /** @type {{task: () => Promise<void>, signal: AbortSignal}[]} */
    this.waiting = [];
  }

  /**
   * Adds a task. If its signal is aborted before its turn, it never starts.
   * @param {() => Promise<void>} task
   * @param {AbortSignal} signal
   */
  add(task, signal) {
    this.waiting.push({ task, signal });
    this.next();
  }

  next() {
    while (this.running < this.limit && this.waiting.length) {
      const { task, signal } = this.waiting.shift();
      if (signal.aborted) continue;
      this.running += 1;
      task().finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }
}
