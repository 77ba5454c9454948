// The page: what is open (the part of the address behind #), and how to get elsewhere.
import { type Folder, get } from './api'
import { cohortView } from './cohort'
import { commandBar, showCommand } from './command'
import { compareView } from './compare'
import { designView } from './design'
import { fill, h, notice } from './dom'
import { foldersView } from './folders'
import { jobsView } from './jobs'
import { resultsView } from './results'
import { scanView } from './scan'

type View = (host: HTMLElement, words: string[], signal: AbortSignal) => Promise<void>

const VIEWS: Record<string, View> = {
  __proto__: null as never, // an address names one of these, and no method of objects
  cohort: cohortView, scan: scanView, design: designView, results: resultsView, compare: compareView, jobs: jobsView, folders: foldersView,
}
const TABS = [['cohort', 'Cohort'], ['design', 'Design'], ['results', 'Results'], ['jobs', 'Jobs']] as const
const PARENTS: Record<string, string> = { __proto__: null as never, scan: 'cohort', compare: 'results' }

const main = h('main', { id: 'main', tabindex: -1 })
const where = h('a', { class: 'folder', href: '#/folders' })
const tabs = TABS.map(([name, label]) => h('a', { href: `#/${name}` }, label))
let open = new AbortController()

document.body.append(
  h('a', { href: '#main', class: 'skip', onclick: (event: Event) => { event.preventDefault(); main.focus() } }, 'Skip to the content'),
  h('header', {}, h('span', { class: 'brand' }, 'vbmstat'), h('nav', { 'aria-label': 'Steps' }, ...tabs), where),
  main, commandBar)
window.addEventListener('hashchange', () => void show())
void show()

async function show(): Promise<void> {
  const [name = 'cohort', ...words] = location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map(decoded)
  open.abort()
  open = new AbortController()
  const { signal } = open
  const tab = PARENTS[name] ?? name
  TABS.forEach(([one], at) => tabs[at]?.setAttribute('aria-current', one === tab ? 'page' : 'false'))
  document.title = `${TABS.find(([one]) => one === tab)?.[1] ?? 'Workbench'} · vbmstat`
  const host = h('div', { class: `view ${name}` })
  const busy = h('p', { class: 'muted', role: 'status' }, 'Loading …')
  fill(main, busy, host)
  showCommand('')
  try {
    const view = VIEWS[name]
    if (!view) throw new Error(`There is no page ${name}; use the links above.`)
    void named(signal)
    await view(host, words, signal)
  } catch (error) {
    if (!signal.aborted) host.append(notice(error instanceof Error ? error.message : String(error), 'error'))
  } finally {
    busy.remove()
  }
}

/** A part of the address; one that a person broke stays as it is, and is not found. */
function decoded(word: string): string {
  try {
    return decodeURIComponent(word)
  } catch {
    return word
  }
}

/** Name the folder in the head of the page. */
async function named(signal: AbortSignal): Promise<void> {
  if (where.textContent) return
  const folder = await get<Folder>('/api/folder', signal).catch(() => null)
  if (!folder) return
  fill(where, h('bdi', {}, folder.path))
  where.title = `Open another folder (vbmstat ${folder.version})`
}
