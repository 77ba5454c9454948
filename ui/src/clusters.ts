// The clusters above the height: a table that moves the crosshair, and says where the crosshair is.
import type { NVImage } from '@niivue/niivue'
import { type Cluster, type Clusters, type Triple } from './api'
import { fill, h, number } from './dom'
import type { Sides } from './viewer'

const MOST = 200_000 // voxels of a cluster that are searched
const HEAD_PX = 36 // of the heading that stays

export class ClusterTable {
  readonly element = h('section', { class: 'card clusters', 'aria-label': 'Clusters' })
  private rows: HTMLElement[] = []
  private clusters: Cluster[] = []

  constructor(private readonly onChoose: (peak: Triple) => void) {}

  /** The clusters of the sides that are shown; `by` names the height of both. */
  show({ clusters: all, by }: Clusters, withP: boolean, sides: Sides): void {
    this.clusters = all.filter(one => sides === 'both' || ((one.t ?? 0) > 0) === (sides === 'positive'))
    const height = all.some(one => (one.t ?? 0) < 0) ? by.replace(/^(\w+) >/, '|$1| >') : by
    const found = this.clusters.length
    const count = sides === 'both' ? `${found} ${found === 1 ? 'cluster' : 'clusters'}` : `${found} ${sides} of ${all.length} clusters`
    const p = withP && this.clusters.some(one => one.p_fwe !== null)
    this.rows = this.clusters.map(one => h('tr', { onclick: () => this.onChoose(one.peak_mm) },
      h('th', { scope: 'row', class: 'num' }, h('button', { type: 'button', class: 'quiet small', 'aria-label': `Cluster ${one.rank}: go to its peak` }, one.rank)),
      h('td', { title: one.region }, h('div', {}, one.region || '–')),
      h('td', { class: 'num' }, one.peak_mm.map(mm => number(Math.round(mm))).join(', ')),
      h('td', { class: 'num' }, number(one.t, 3)),
      p && h('td', { class: 'num' }, one.p_fwe === null ? '–' : one.p_fwe < 0.001 ? '< 0.001' : number(one.p_fwe, 2)),
      h('td', { class: 'num' }, number(one.extent_ml, 3))))
    const heads: [string, boolean][] = [['#', true], ['Regions', false], ['Peak (x, y, z mm)', true], ['Statistic', true], ['Volume (mL)', true]]
    if (p) heads.splice(4, 0, ['FWE p of the peak', true])
    fill(this.element,
      h('h2', {}, all.length ? `${count}, ${height}` : `No voxel at ${by}`),
      found ? h('div', { class: 'scroller', tabindex: 0, role: 'region', 'aria-label': 'Table of clusters' }, h('table', { class: 'choose' },
        h('thead', {}, h('tr', {}, ...heads.map(([name, right]) => h('th', { scope: 'col', class: right ? 'num' : '' }, name)))),
        h('tbody', {}, ...this.rows))) : h('p', { class: 'muted' }, 'Move the threshold down, show both signs, or choose another contrast.'))
  }

  /** Mark the cluster in which the crosshair is. */
  mark(image: NVImage | undefined, mm: Triple, height: number): void {
    const at = image ? this.clusterAt(image, mm, height) : -1
    this.rows.forEach((row, one) => row.setAttribute('aria-selected', String(one === at)))
    const [row, box] = [this.rows[at], this.element.querySelector('.scroller')]
    if (!row || !box) return
    const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight]
    if (top < box.scrollTop + HEAD_PX || bottom > box.scrollTop + box.clientHeight) box.scrollTop = top - HEAD_PX
  }

  /** Spread from a voxel over those that touch and are as extreme, until a peak of the table is met. */
  private clusterAt(image: NVImage, mm: Triple, height: number): number {
    const start = voxelOf(image, mm)
    const sign = Math.sign(image.getValue(...start))
    const peaks = new Map(this.clusters.map((one, at) => [voxelOf(image, one.peak_mm).join(), at]))
    const seen = new Set<string>([start.join()])
    const open = [start]
    for (let voxel = open.pop(); voxel && seen.size < MOST; voxel = open.pop()) {
      if (image.getValue(...voxel) * sign < height) continue
      const found = peaks.get(voxel.join())
      if (found !== undefined) return found
      for (const [x, y, z] of AROUND) {
        const next: Triple = [voxel[0] + x, voxel[1] + y, voxel[2] + z]
        if (seen.has(next.join())) continue
        seen.add(next.join())
        open.push(next)
      }
    }
    return -1
  }
}

const AROUND = [-1, 0, 1].flatMap(x => [-1, 0, 1].flatMap(y => [-1, 0, 1].map(z => [x, y, z] as Triple)))
  .filter(([x, y, z]) => Math.abs(x) + Math.abs(y) + Math.abs(z) > 0)

function voxelOf(image: NVImage, mm: Triple): Triple {
  return [...(image.mm2vox([...mm]) as unknown as number[])] as Triple
}

