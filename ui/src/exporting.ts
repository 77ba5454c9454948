// What leaves the page as files: figure, table, report.
import { id, type Job } from './api'
import { h } from './dom'
import { refusable, start } from './jobs'
import type { MapPanel } from './maps'

/** Where the picture or table of what is shown comes from. */
export function exported(panel: MapPanel, what: 'figure' | 'table', format: string): string {
  const asked = new URLSearchParams({ contrast: panel.contrast.name, threshold: panel.testedFrom, format })
  if (what === 'figure') asked.set('at', panel.viewer.position.map(one => one.toFixed(1)).join(','))
  return `/api/results/${id(panel.result.id)}/${what}?${asked}`
}

/** A menu of downloads of what is shown. */
export function exportMenu(host: HTMLElement, panel: MapPanel, signal: AbortSignal): HTMLElement {
  const { result } = panel
  const report = result.report === null
    ? h('button', {
      type: 'button',
      onclick: () => void refusable(host, start(host, 'report', { folder: result.id }, signal, (job: Job) => {
        if (job.state === 'done') window.dispatchEvent(new HashChangeEvent('hashchange'))
      })),
    }, 'Write the report')
    : h('a', { href: result.report, target: '_blank', rel: 'noopener' }, 'Report (HTML)')
  const download = (what: 'figure' | 'table', format: string, label: string) => {
    const link = h('a', { href: '#', download: `${panel.contrast.label}_${what}.${format}` }, label)
    link.addEventListener('click', () => { link.href = exported(panel, what, format) })
    return link
  }
  const files = result.level === 'voxel'
    ? [download('figure', 'svg', 'Figure (SVG)'), download('figure', 'png', 'Figure (PNG)'), download('table', 'tsv', 'Clusters (TSV)')] : []
  return h('details', { class: 'menu count' }, h('summary', {}, 'Export'), h('div', { class: 'sheet list' },
    files.length > 0 && h('p', { class: 'muted' }, 'Of the statistic, above its threshold:'), ...files, report))
}
