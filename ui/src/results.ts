// Results: the list of models, and one model with its map, its clusters and the people behind a voxel.
import { type Clusters, type Cohort, get, id, type People, type Result, type ResultSummary, type Triple } from './api'
import { ClusterTable } from './clusters'
import { showCommand } from './command'
import { add, choice, debounced, fill, h, notice } from './dom'
import { exported, exportMenu } from './exporting'
import { MapPanel, regionNames } from './maps'
import { peopleFigure } from './people'
import { regionTable } from './regions'

export async function resultsView(host: HTMLElement, words: string[], signal: AbortSignal): Promise<void> {
  if (words[0] !== undefined) return resultView(host, words[0], signal)
  showCommand('')
  const results = await get<ResultSummary[]>('/api/results', signal)
  add(host, h('h1', {}, 'Results'))
  if (!results.length) {
    add(host, notice('There are no results yet: choose a model in the step Design and run it.'))
    return
  }
  add(host, h('div', { class: 'card' }, h('table', { class: 'choose' },
    h('thead', {}, h('tr', {}, ...['Model', 'Scans', 'Level', 'Inference', 'Made', ''].map(name => h('th', { scope: 'col', class: name === 'Scans' ? 'num' : '' }, name)))),
    h('tbody', {}, ...results.map(one => h('tr', {},
      h('th', { scope: 'row' }, one.problem === null ? h('a', { href: `#/results/${id(one.id)}` }, one.formula ?? one.title) : one.title,
        h('div', { class: 'muted' }, one.id), one.problem !== null && notice(one.problem, 'warning')),
      h('td', { class: 'num' }, one.n_scans), h('td', {}, one.level),
      h('td', {}, [one.inference].flat().join(', ') || 'uncorrected'),
      h('td', {}, new Date(one.made).toLocaleString()),
      h('td', {}, otherOf(one, results))))))))
}

/** Choose a second result to look at beside this one. */
function otherOf(one: ResultSummary, results: ResultSummary[]): HTMLElement | null {
  const others = results.filter(other => other.id !== one.id && other.level === 'voxel' && other.problem === null)
  if (one.level !== 'voxel' || one.problem !== null || !others.length) return null
  return choice('Compare with', [['', '…'], ...others.map((other): [string, string] => [other.id, other.title])], '', other => {
    if (other) location.hash = `#/compare/${id(one.id)}/${id(other)}`
  })
}

async function resultView(host: HTMLElement, name: string, signal: AbortSignal): Promise<void> {
  const [result, nameAt, cohort] = await Promise.all([
    get<Result>(`/api/results/${id(name)}`, signal), regionNames(signal), get<Cohort>('/api/cohort', signal).catch(() => null),
  ])
  showCommand(result.command)
  const panel = new MapPanel(result, '', signal, nameAt)
  const people = new PeoplePanel(result, panel, (cohort?.columns ?? []).filter(one => one.type === 'category' && (one.levels ?? []).length > 1).map(one => one.name), signal)
  const ofVoxels = result.level === 'voxel'
  const clusters = new ClusterTable(peak => panel.viewer.moveTo(peak))
  const table = ofVoxels ? null : await regionTable(result, region => people.ask(region), signal)
  const more = h('section', { class: 'card', hidden: !result.notes.length }, ...result.notes.map(text => h('p', { class: 'muted' }, text)))
  add(host,
    h('div', { class: 'tools' }, h('a', { href: '#/results' }, '← All results'), h('h1', {}, result.formula),
      h('span', { class: 'muted' }, `${result.n_scans} scans`), exportMenu(host, panel, signal)),
    h('div', { class: 'split wide' },
      h('div', { class: 'stack' }, panel.element, table?.element ?? clusters.element), h('div', { class: 'side' }, people.element, more)))

  let chosen = ''
  const settle = debounced(180, (mm: Triple) => {
    if (signal.aborted) return
    const region = nameAt(mm)
    const at = ofVoxels ? panel.viewer.centre(1, mm).map(one => one.toFixed(2)).join(',') : (table?.nameOf(region) ?? '')
    if (ofVoxels && panel.isStatistic) clusters.mark(panel.viewer.image(1), mm, panel.shownFrom)
    if (at && at !== chosen) people.ask(chosen = at)
  })
  panel.viewer.onMove = settle
  panel.onContrast = () => {
    chosen = ''
    table?.show(panel.contrast.name)
  }
  table?.show(panel.contrast.name)
  panel.onThreshold = () => {
    if (ofVoxels && !signal.aborted) void clustersAt(panel, clusters, signal)
  }
  await panel.load()
  const first = panel.contrast.clusters[0]?.peak_mm
  if (ofVoxels && first) panel.viewer.moveTo(first)
  else people.ask('peak')
}

async function clustersAt(panel: MapPanel, table: ClusterTable, signal: AbortSignal): Promise<void> {
  const asked = exported(panel, 'table', 'json')
  try {
    const found = await get<Clusters>(asked, signal)
    if (signal.aborted || asked !== exported(panel, 'table', 'json')) return
    table.show(panel.testedBy === null ? found : { ...found, by: panel.testedBy }, panel.map?.kind !== 'stability', panel.sides)
    if (panel.isStatistic) table.mark(panel.viewer.image(1), panel.viewer.position, panel.shownFrom)
    showCommand(found.command)
  } catch (error) {
    if (!signal.aborted) fill(table.element, notice(error instanceof Error ? error.message : String(error), 'error'))
  }
}

/** Adjusted data of all people at a place. */
class PeoplePanel {
  readonly element = h('section', { class: 'card', 'aria-label': 'People behind this place' })
  private readonly body = h('div', { 'aria-live': 'polite' }, h('p', { class: 'muted' }, 'Click a voxel or a row to see the people behind it.'))
  private by = ''
  private at = ''
  private asking = new AbortController()

  constructor(private readonly result: Result, private readonly panel: MapPanel, columns: string[], private readonly signal: AbortSignal) {
    add(this.element, h('div', { class: 'tools' }, h('h2', {}, 'People behind this place'),
      columns.length > 0 && choice('Colour by', [['', 'the model'], ...columns.map((one): [string, string] => [one, one])], '', by => {
        this.by = by
        if (this.at) this.ask(this.at)
      })), this.body)
    signal.addEventListener('abort', () => this.asking.abort())
  }

  ask(at: string): void {
    this.at = at
    this.asking.abort()
    this.asking = new AbortController()
    void this.answer(this.asking.signal)
  }

  private async answer(asking: AbortSignal): Promise<void> {
    this.body.setAttribute('aria-busy', 'true')
    const asked = new URLSearchParams({ contrast: this.panel.contrast.name, at: this.at, ...(this.by ? { by: this.by } : {}) })
    try {
      const people = await get<People>(`/api/results/${id(this.result.id)}/places?${asked}`, asking)
      if (asking.aborted || this.signal.aborted) return
      fill(this.body, peopleFigure(people, this.panel.map?.kind !== 'stability'))
      showCommand(people.command)
    } catch (error) {
      if (!asking.aborted) fill(this.body, notice(error instanceof Error ? error.message : String(error), 'warning'))
    } finally {
      if (!asking.aborted) this.body.removeAttribute('aria-busy')
    }
  }
}
