// The edge of a template, to see whether a scan lies on it.
import type { NVImage } from '@niivue/niivue'

const INSIDE = 0.5 // of the largest intensity

const MIDDLE_MM = 8 // from the midline: the walls of the fissure lie in sagittal slices and would fill them

/** Leave 1 where a voxel is inside and one of its six neighbours is not (near the midline one in its sagittal slice), 0 elsewhere. */
export function outline(image: NVImage): void {
  const [, nx = 0, ny = 0, nz = 0] = image.hdr?.dims ?? []
  const values = image.img
  if (!values) return
  const top = (image.global_max ?? 1) * INSIDE
  const slope = image.hdr?.scl_slope || 1
  const inter = image.hdr?.scl_inter ?? 0
  const inside = Uint8Array.from({ length: nx * ny * nz }, (_, at) => Number(Number(values[at]) * slope + inter > top))
  const edge = new Float32Array(nx * ny * nz)
  const inSlice = [nx, -nx, nx * ny, -nx * ny]
  const { affine } = image.hdr!
  const isMiddle = (x: number) => Math.abs((affine[0]?.[0] ?? 1) * x + (affine[0]?.[3] ?? 0)) < MIDDLE_MM
  for (let z = 1; z < nz - 1; z++) {
    for (let y = 1; y < ny - 1; y++) {
      for (let x = 1; x < nx - 1; x++) {
        const at = x + nx * (y + ny * z)
        const around = (isMiddle(x) ? inSlice : [1, -1, ...inSlice]).every(step => inside[at + step])
        edge[at] = inside[at] && !around ? 1 : 0
      }
    }
  }
  values.forEach((_, at) => { values[at] = ((edge[at] ?? 0) - inter) / slope })
}
