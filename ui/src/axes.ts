// Axes of plots.
import { number, s } from './dom'

/** Where a plot lies in its drawing. */
export interface Frame {
  left: number
  top: number
  right: number
  bottom: number
}

export type Scale = (value: number) => number

/** About five round numbers over a range. */
export function ticks(low: number, high: number): number[] {
  const span = high - low || 1
  const power = 10 ** Math.floor(Math.log10(span / 5))
  const step = [1, 2, 5, 10].map(one => one * power).find(one => span / one <= 6) ?? span
  const found = []
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(12)))
  return found
}

/** Smallest and largest of what is a number, with room around. */
export function range(values: (number | null | undefined)[], room = 0.05): [number, number] {
  const known = values.filter((value): value is number => typeof value === 'number' && Number.isFinite(value))
  if (!known.length) return [0, 1]
  const [low, high] = [Math.min(...known), Math.max(...known)]
  const more = (high - low || Math.abs(high) || 1) * room
  return [low - more, high + more]
}

export function scale([low, high]: [number, number], from: number, to: number): Scale {
  return value => from + ((value - low) / (high - low || 1)) * (to - from)
}

/** The lower and left axis with their names; `levels` name places of a factor. */
export function axes(
  frame: Frame, x: Scale, y: Scale, at: { x: [number, string][]; y: number[] }, names: { x: string; y: string }
): SVGElement {
  const { left, top, right, bottom } = frame
  return s('g', { class: 'axes' },
    s('path', { d: `M${left} ${top}V${bottom}H${right}` }),
    ...at.x.map(([value, label]) => s('text', { x: x(value), y: bottom + 15, 'text-anchor': 'middle' }, label)),
    ...at.y.flatMap(value => [
      s('path', { class: 'rule', d: `M${left} ${y(value)}H${right}` }),
      s('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, number(value, 3)),
    ]),
    s('text', { class: 'name', x: (left + right) / 2, y: bottom + 32, 'text-anchor': 'middle' }, names.x),
    s('text', { class: 'name', transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, 'text-anchor': 'middle' }, names.y))
}
