// One scan: its images on one another, its quality, and whether it stays in.
import { type Cohort, get, id, put, remove, type Role, type Scan, type ScanDetail, type ScanImage } from './api'
import { lastOrder } from './cohort'
import { showCommand } from './command'
import { add, choice, fill, h, notice, number } from './dom'
import { refusable } from './jobs'
import { outline } from './outline'
import { type Layer, Viewer } from './viewer'

const COLOURS: Record<Role, string> = {
  t1w: 'gray', warped: 'gray', template: 'gray', gm: 'orange', wm: 'blue', csf: 'teal', label: 'tissues', lesion: 'magenta', outline: 'yellow',
}
const OPACITY: Partial<Record<Role, number>> = { t1w: 1, warped: 1, lesion: 0.8, outline: 1 }
const REASONS = ['motion', 'wrong or incomplete field of view', 'segmentation failed', 'registration failed', 'lesion or other finding', 'wrong person or session']
const kept = { space: 'scan' as 'scan' | 'template', opacity: new Map<string, number>() }

export async function scanView(host: HTMLElement, [scan = '']: string[], signal: AbortSignal): Promise<void> {
  const [detail, cohort] = await Promise.all([
    get<ScanDetail>(`/api/scans/${id(scan)}`, signal), get<Cohort>('/api/cohort', signal),
  ])
  const row = cohort.rows.find(one => one.scan === scan)
  if (!row) throw new Error(`${scan}: no such scan in this cohort; go back to the table.`)
  const order = lastOrder().includes(scan) ? lastOrder() : cohort.rows.map(one => one.scan)
  const at = order.indexOf(scan)
  const go = (step: number) => {
    const next = order[at + step]
    if (next !== undefined) location.hash = `#/scan/${id(next)}`
  }
  const viewer = new Viewer(`Slices of ${scan}`)
  const layers = h('section', { class: 'card', 'aria-label': 'Images' })
  const exclusion = h('section', { class: 'card', 'aria-label': 'Exclusion' })
  const reason = excluding(exclusion, row)

  add(host,
    h('div', { class: 'tools' }, h('a', { href: '#/cohort' }, '← All scans'), h('h1', {}, scan),
      h('span', { class: 'muted' }, `${at + 1} of ${order.length}`),
      h('span', { class: 'count' }, step('Previous', 'p', () => go(-1), at <= 0), ' ', step('Next', 'n', () => go(1), at >= order.length - 1))),
    h('div', { class: 'split' }, viewer.element,
      h('div', { class: 'side' }, exclusion, layers, ...[...new Set([...detail.notes, ...row.flags])].map(text => notice(text, 'warning')),
        detail.picture === null ? null : h('a', { href: detail.picture, target: '_blank', rel: 'noopener' }, 'Picture of the report'), qualityTable(detail))))
  signal.addEventListener('abort', () => viewer.dispose())
  document.addEventListener('keydown', event => {
    const target = event.target as HTMLElement
    if (event.key === 'Escape' && target === reason) return reason.blur()
    if (target.matches('input, select, textarea') || event.ctrlKey || event.metaKey || event.altKey) return
    const keys: Record<string, () => void> = {
      n: () => go(1), p: () => go(-1), x: () => { reason.focus() }, Escape: () => { location.hash = '#/cohort' },
    }
    keys[event.key]?.()
    if (event.key === 'x') event.preventDefault()
  }, { signal })
  await showImages(layers, viewer, detail.images, signal)
}

function step(label: string, key: string, go: () => void, disabled: boolean): HTMLElement {
  return h('button', { type: 'button', onclick: go, disabled }, label, h('kbd', { 'aria-hidden': 'true' }, key))
}

/** Images of one space as layers; those of the other are a choice away, as their grids have nothing in common. */
async function showImages(host: HTMLElement, viewer: Viewer, images: ScanImage[], signal: AbortSignal): Promise<void> {
  const spaces = (['scan', 'template'] as const).filter(space => images.some(one => one.space === space && one.role !== 'template'))
  if (!spaces.includes(kept.space)) kept.space = spaces[0] ?? 'scan'
  const inSpace = images.filter(one => one.space === kept.space)
  const base = inSpace.find(one => one.role === 't1w' || one.role === 'warped') ?? inSpace[0]
  if (!base) {
    fill(host, notice('There is no image of this scan to show.', 'warning'))
    return
  }
  const shown = [base, ...inSpace.filter(one => one !== base && one.role !== 't1w')]
  const draws = shown.map((one, at) => asLayer(one, at))
  fill(host, h('h2', {}, 'Images'),
    spaces.length > 1 && choice('Space', [['scan', 'the scan’s own'], ['template', 'template']], kept.space, value => {
      kept.space = value as 'scan' | 'template'
      void showImages(host, viewer, images, signal)
    }),
    ...draws.map((layer, at) => layerRow(layer, at, viewer)))
  showCommand(base.command)
  await viewer.show(draws, signal)
}

function asLayer(image: ScanImage, at: number): Layer {
  const role = image.role === 'template' ? 'outline' : image.role
  const label = image.role === 'template' ? 'Template outline' : image.label
  return {
    label, url: image.url, colormap: at && role === 'warped' ? 'orange' : COLOURS[role], range: role === 'outline' ? [0.5, 1] : image.range,
    opacity: at === 0 ? 1 : (kept.opacity.get(label) ?? (role === 'lesion' || role === 'outline' ? OPACITY[role] ?? 0 : 0)),
    ...(image.role === 'template' ? { prepare: outline, silent: true } : {}),
  }
}

function layerRow(layer: Layer, at: number, viewer: Viewer): HTMLElement {
  const slider = h('input', { type: 'range', min: 0, max: 1, step: 0.05, value: layer.opacity ?? 1, 'aria-label': `Opacity of ${layer.label}` })
  const box = h('input', { type: 'checkbox', checked: (layer.opacity ?? 1) > 0 })
  const set = (opacity: number) => {
    box.checked = opacity > 0
    slider.value = String(opacity)
    if (at) kept.opacity.set(layer.label, opacity)
    viewer.setOpacity(at, opacity)
  }
  slider.addEventListener('input', () => set(Number(slider.value)))
  box.addEventListener('change', () => set(box.checked ? (at ? 0.6 : 1) : 0))
  return h('div', { class: 'layer' }, h('label', { class: 'field' }, box, h('i', { class: `swatch ${layer.colormap}`, 'aria-hidden': 'true' })), h('span', {}, layer.label), slider)
}

/** Mark the scan, with a reason, or take the mark away; returns the field of the reason. */
function excluding(host: HTMLElement, row: Scan): HTMLInputElement {
  const reason = h('input', { list: 'reasons', value: row.excluded ?? '', placeholder: 'reason, e.g. motion', 'aria-label': 'Reason to exclude the scan' })
  const state = h('span', { class: 'chip' })
  const exclude = h('button', { type: 'submit', class: 'danger' }, 'Exclude', h('kbd', { 'aria-hidden': 'true' }, 'x'))
  const include = h('button', { type: 'button', onclick: () => void refusable(host, remove(`/api/exclusions/${id(row.scan)}`).then(() => draw(null))) }, 'Include again')
  const form = h('form', { class: 'tools' }, reason, exclude, include)
  const draw = (excluded: string | null) => {
    row.excluded = excluded
    state.className = `chip ${excluded === null ? row.status : 'excluded'}`
    state.textContent = excluded === null ? (row.status === 'done' ? 'included' : row.status) : 'excluded'
    include.hidden = excluded === null
    exclude.firstChild!.textContent = excluded === null ? 'Exclude' : 'Change the reason'
  }
  form.addEventListener('submit', event => {
    event.preventDefault()
    const why = reason.value.trim()
    if (!why) {
      reason.setCustomValidity('Say why, in a word or two: papers ask.')
      reason.reportValidity()
      return
    }
    void refusable(host, put(`/api/exclusions/${id(row.scan)}`, { reason: why }).then(() => {
      draw(why)
      reason.blur() // the next key is the page's: on to the next scan
    }))
  })
  reason.addEventListener('input', () => reason.setCustomValidity(''))
  add(host, h('div', { class: 'tools' }, h('h2', {}, 'This scan'), state), form,
    h('datalist', { id: 'reasons' }, ...REASONS.map(value => h('option', { value }))),
    h('p', { class: 'muted' }, 'Kept in exclusions.tsv: every model fitted from now on, here or in the terminal, leaves the scan out.'))
  draw(row.excluded)
  return reason
}

function qualityTable(detail: ScanDetail): HTMLElement | null {
  if (!detail.quality.length) return null
  return h('section', { class: 'card' }, h('table', {}, h('caption', {}, h('h2', {}, 'Quality and volumes')), h('tbody', {},
    ...detail.quality.map(one => h('tr', { title: one.description },
      h('th', { scope: 'row' }, one.label),
      h('td', { class: one.flagged ? 'num flagged' : 'num' }, typeof one.value === 'number' ? number(one.value) : String(one.value ?? '–'),
        one.flagged && h('span', { class: 'unseen' }, ' unusual in this cohort')))))))
}
