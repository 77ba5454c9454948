// Two results side by side: linked crosshairs, and their voxels against one another.
import { get, id, type Pair, type Result, type Triple } from './api'
import { axes, type Frame, range, scale, ticks } from './axes'
import { showCommand } from './command'
import { add, h, notice, number, s } from './dom'
import { MapPanel, regionNames } from './maps'

const [WIDTH, HEIGHT] = [460, 400]
const FRAME: Frame = { left: 58, top: 10, right: WIDTH - 12, bottom: HEIGHT - 42 }

export async function compareView(host: HTMLElement, [first = '', second = '']: string[], signal: AbortSignal): Promise<void> {
  const [a, b, nameAt] = await Promise.all([
    get<Result>(`/api/results/${id(first)}`, signal), get<Result>(`/api/results/${id(second)}`, signal), regionNames(signal),
  ])
  const common = a.contrasts.find(one => b.contrasts.some(other => other.name === one.name))
  const panels = [a, b].map(result => new MapPanel(result, common?.name ?? '', signal, nameAt))
  const scatter = h('section', { class: 'card scatter', 'aria-label': 'Voxels of both results' }, h('p', { class: 'muted' }, 'Comparing …'))
  add(host,
    h('div', { class: 'tools' }, h('a', { href: '#/results' }, '← All results'), h('h1', {}, 'Two results side by side')),
    h('div', { class: 'split even' }, ...panels.map(panel => h('section', { class: 'stack', 'aria-label': panel.result.id },
      h('h2', {}, panel.result.formula), h('p', { class: 'muted' }, `${panel.result.id}, ${panel.result.n_scans} scans`), panel.element))),
    scatter)
  panels.forEach((panel, at) => {
    const other = panels[1 - at]!
    panel.viewer.onMove = (mm: Triple, byPerson) => { if (byPerson) other.viewer.moveTo(mm) }
  })
  await Promise.all(panels.map(panel => panel.load()))
  const peak = common?.clusters[0]?.peak_mm
  if (peak) panels.forEach(panel => panel.viewer.moveTo(peak))
  if (!common) {
    scatter.replaceChildren(notice('These results have no contrast in common, so their voxels are not compared.'))
    return
  }
  const asked = new URLSearchParams({ first, second, contrast: common.name })
  try {
    const pair = await get<Pair>(`/api/pairs?${asked}`, signal)
    showCommand(pair.command)
    scatter.replaceChildren(h('h2', {}, `${common.kind} of ${common.name}, voxel by voxel`),
      h('p', {}, `r = ${number(pair.r, 3)}`, pair.slope === null ? '' : `, slope ${number(pair.slope, 3)}`, ` (${pair.points.length} of the voxels drawn)`),
      cloud(pair, a.id, b.id), ...pair.notes.map(text => notice(text)))
  } catch (error) {
    if (!signal.aborted) scatter.replaceChildren(notice(error instanceof Error ? error.message : String(error), 'warning'))
  }
}

/** Voxels of two maps as one path, with the line on which they would be equal. */
function cloud(pair: Pair, first: string, second: string): SVGElement {
  const both = range(pair.points.flat())
  const [x, y] = [scale(both, FRAME.left, FRAME.right), scale(both, FRAME.bottom, FRAME.top)]
  const at = ticks(...both)
  const dots = pair.points.map(([one, other]) => `M${x(one).toFixed(1)} ${y(other).toFixed(1)}h0`).join('')
  return s('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: 'plot s0', role: 'img', 'aria-label': `${second} against ${first}, r = ${number(pair.r, 3)}` },
    axes(FRAME, x, y, { x: at.map(value => [value, number(value, 3)]), y: at }, { x: first, y: second }),
    s('path', { class: 'dots', d: dots }),
    s('path', { class: 'equal', d: `M${x(both[0])} ${y(both[0])}L${x(both[1])} ${y(both[1])}` }))
}
