// Commands that run on the server, with live progress.
import { type Folder, get, id, type Job, post, Refused, remove } from './api'
import { showCommand } from './command'
import { add, fill, h, notice } from './dom'

interface Heard {
  state: Job['state']
  progress: Job['progress']
  line: string | null
}

const WORDS: Record<Job['state'], string> = {
  running: 'running', done: 'done', failed: 'failed', stopped: 'stopped', interrupted: 'interrupted: the workbench was closed',
}

/** A card that follows a job until it ends. */
export function jobCard(job: Job, signal: AbortSignal, onEnd: (job: Job) => void = () => {}): HTMLElement {
  const state = h('span', { class: 'chip' })
  const bar = h('progress', { 'aria-label': `Progress of ${job.title}` })
  const text = h('span', { class: 'muted' })
  const log = h('pre', { tabindex: 0, 'aria-label': `Output of ${job.title}` })
  const stop = h('button', { type: 'button', onclick: () => void refusable(card, remove(`/api/jobs/${id(job.id)}`)) }, 'Stop')
  const resume = h('button', {
    type: 'button', onclick: () => void refusable(card, post(`/api/jobs/${id(job.id)}/resume`).then(follow)),
  }, 'Resume')
  const open = job.result === null ? null : h('a', { href: `#/results/${id(job.result)}` }, 'Open the result')
  const card = h('section', { class: 'card job', 'aria-label': job.title },
    h('div', { class: 'tools' }, h('strong', {}, job.title), state, bar, text, stop, resume, open),
    h('details', {}, h('summary', {}, 'Output'), h('code', {}, `$ ${job.command}`), log))

  let last = 'starting …' // what it said, where that tells no progress
  const draw = (heard: Heard) => {
    fill(state, WORDS[heard.state])
    state.className = `chip ${heard.state}`
    const running = heard.state === 'running'
    if (heard.progress?.total) [bar.max, bar.value] = [heard.progress.total, heard.progress.done]
    bar.hidden = !running
    if (heard.line?.trim() && !heard.line.startsWith('$')) last = heard.line.trim()
    text.textContent = running ? (heard.progress?.text ?? last) : ''
    ;[stop.hidden, resume.hidden] = [!running, running || heard.state === 'done']
    if (open) open.hidden = heard.state !== 'done'
    if (heard.line !== null && heard.line !== undefined) add(log, `${heard.line}\n`)
  }
  const follow = () => {
    fill(log)
    const source = new EventSource(`/api/jobs/${id(job.id)}/events`)
    signal.addEventListener('abort', () => source.close())
    source.onmessage = event => {
      const heard = JSON.parse(event.data as string) as Heard
      draw(heard)
      if (heard.state === 'running' || heard.line !== null) return // what an ended job said comes line by line, too
      source.close()
      if (heard.state === 'failed') fill(text, last)
      onEnd({ ...job, state: heard.state })
    }
  }
  draw({ state: job.state, progress: job.progress, line: null })
  follow()
  return card
}

/** Start a command and show how it goes. */
export async function start(
  host: HTMLElement, command: string, options: unknown, signal: AbortSignal, onEnd?: (job: Job) => void
): Promise<void> {
  const made = await post<{ id: string }>('/api/jobs', { command, options })
  const jobs = await get<Job[]>('/api/jobs', signal)
  const job = jobs.find(one => one.id === made.id)
  if (job) host.prepend(jobCard(job, signal, onEnd))
}

/** Jobs of a command that still run, for who comes back to the page. */
export async function stillRunning(host: HTMLElement, title: string, signal: AbortSignal): Promise<void> {
  const jobs = await get<Job[]>('/api/jobs', signal)
  add(host, ...jobs.filter(job => job.state === 'running' && job.title.startsWith(title)).map(job => jobCard(job, signal)))
}

/** Run or resume preprocessing: a button in the head of the cohort, and how it goes below. */
export async function preprocessing(
  head: HTMLElement, host: HTMLElement, folder: Folder, waiting: number, signal: AbortSignal
): Promise<void> {
  const place = h('div')
  host.append(place)
  const again = () => window.dispatchEvent(new HashChangeEvent('hashchange'))
  const running = (await get<Job[]>('/api/jobs', signal)).find(job => job.title === 'preprocess' && job.state === 'running')
  if (running) add(place, jobCard(running, signal, again))
  else if (folder.can_preprocess && waiting + folder.n_failed > 0) {
    const button = h('button', {
      type: 'button', class: folder.kind === 'bids' ? 'primary' : '',
      onclick: () => {
        button.disabled = true
        void refusable(place, start(place, 'preprocess', {}, signal, again))
      },
    }, folder.kind === 'bids' ? `Preprocess ${waiting} scans` : `Resume preprocessing (${waiting} waiting, ${folder.n_failed} failed)`)
    head.append(button)
  }
}

export async function jobsView(host: HTMLElement, _: string[], signal: AbortSignal): Promise<void> {
  showCommand('')
  const jobs = await get<Job[]>('/api/jobs', signal)
  add(host, h('h1', {}, 'Jobs'), ...jobs.map(job => jobCard(job, signal)))
  if (!jobs.length) add(host, notice('Nothing has been started from this page yet.'))
}

/** Show what the server refuses where it was asked. */
export async function refusable(host: HTMLElement, asked: Promise<unknown>): Promise<void> {
  host.querySelectorAll(':scope > .notice.error').forEach(one => one.remove())
  try {
    await asked
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    host.append(notice(error.message, 'error'))
  }
}
