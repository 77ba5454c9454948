// A model of regions: its table, and the people behind each row.
import { get, id, type Regions, type Result, type Value } from './api'
import { h, number } from './dom'
import { VirtualTable } from './table'

const ROW_PX = 34
const NAME = ['region', 'label', 'name', 'roi']

/** The table, and how it calls a region of the atlas: as it is, or without its side. */
export async function regionTable(
  result: Result, onChoose: (region: string) => void, signal: AbortSignal
): Promise<{ element: HTMLElement; show: (contrast: string) => void; nameOf: (region: string) => string | null }> {
  const { columns, rows } = await get<Regions>(`/api/results/${id(result.id)}/regions`, signal)
  const key = NAME.find(one => columns.includes(one)) ?? columns[0] ?? ''
  const table = new VirtualTable<Record<string, Value>>('Regions', ROW_PX, columns.includes('p_fwe') ? 'p_fwe' : '')
  table.setColumns(columns.filter(name => name !== 'contrast' && name !== 'statistic').map(name => ({
    name, numeric: name !== key, width: name === key ? 26 : Math.max(8, name.length + 2),
    sort: row => row[name] ?? null,
    cell: row => name === key ? h('button', { type: 'button', class: 'quiet small', onclick: () => onChoose(String(row[key])) }, String(row[key]))
      : typeof row[name] === 'number' ? number(row[name], 3) : String(row[name] ?? '–'),
  })))
  const names = new Set(rows.map(row => String(row[key])))
  return {
    element: h('section', { class: 'card regions', 'aria-label': 'Regions' }, table.element),
    show: contrast => table.setRows(rows.filter(row => row['contrast'] === undefined || row['contrast'] === contrast)),
    nameOf: region => [region, region.replace(/^(Left|Right) /, '')].find(one => names.has(one)) ?? null,
  }
}
