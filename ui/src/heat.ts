// Matrices in colours: a design as it is fitted, and how its regressors go together.
import type { Design } from './api'
import { h, number } from './dom'

const HIGH_VIF = 5

/** The design matrix, a row a scan, each regressor from its smallest (dark) to its largest value (light). */
export function matrix(design: Design): HTMLElement {
  const rows = design.matrix
  const canvas = h('canvas', {
    class: 'matrix', width: design.regressors.length, height: Math.max(rows.length, 1), role: 'img',
    'aria-label': `Design matrix of ${design.n_scans} scans: ${design.regressors.join(', ')}`,
  })
  const pixels = new ImageData(canvas.width, canvas.height)
  rows.flat().forEach((value, at) => pixels.data.set([...Array<number>(3).fill(Math.round(30 + 215 * value)), 255], 4 * at))
  canvas.getContext('2d')?.putImageData(pixels, 0, 0)
  const heads = h('div', { class: 'heads' }, ...design.regressors.map(name => h('span', { title: name }, name)))
  return h('div', { class: 'design' }, heads, canvas,
    h('p', { class: 'muted' }, rows.length < design.n_scans ? `${rows.length} of ${design.n_scans} scans. ` : '', 'Dark is a regressor’s smallest value, light its largest.'))
}

/** Correlations in colours and figures, with variance inflation below. */
export function correlations(design: Design): HTMLElement {
  const shown = design.regressors.map((name, at) => ({ name, at })).filter(({ name }) => name !== 'Intercept')
  const cell = (value: number | null | undefined) => {
    const td = h('td', { class: 'num' }, typeof value === 'number' ? value.toFixed(2).replace('-', '−') : '–')
    if (typeof value === 'number') {
      td.style.background = `color-mix(in srgb, ${value < 0 ? 'var(--series-1)' : 'var(--series-2)'} ${Math.round(Math.abs(value) * 45)}%, transparent)`
    }
    return td
  }
  return h('div', { class: 'scroller', tabindex: 0, role: 'region', 'aria-label': 'Table of correlations' }, h('table', {},
    h('thead', {}, h('tr', {}, h('th', { scope: 'col' }, ''), ...shown.map(({ name }) => h('th', { scope: 'col', class: 'num' }, name)))),
    h('tbody', {}, ...shown.map(row => h('tr', {}, h('th', { scope: 'row' }, row.name),
      ...shown.map(column => cell(design.correlations[row.at]?.[column.at])))),
    h('tr', {}, h('th', { scope: 'row', title: 'Above 5 the regressor is nearly a sum of the others' }, 'VIF'), ...shown.map(({ name }) => {
      const vif = design.vif[name] ?? null
      return h('td', { class: vif !== null && vif > HIGH_VIF ? 'num flagged' : 'num' }, number(vif, 3))
    })))))
}
