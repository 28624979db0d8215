// Pictures on canvases, and files that a person drops.

export function paint(canvas, pixels, size) {
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(new ImageData(Uint8ClampedArray.from(pixels), size, size), 0, 0);
  return canvas;
}

export const toUrl = (pixels, size) => paint(document.createElement("canvas"), pixels, size).toDataURL();

// The RGBA bytes of a picture, its middle cut out as a square of `size` pixels. Of that size already: as it is.
export async function readPicture(source, size) {
  const bitmap = await createImageBitmap(source, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const side = Math.min(bitmap.width, bitmap.height), canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, size, size);
  context.imageSmoothingQuality = "high";
  const x = Math.floor((bitmap.width - side) / 2), y = Math.floor((bitmap.height - side) / 2);
  context.drawImage(bitmap, x, y, side, side, 0, 0, size, size);
  return context.getImageData(0, 0, size, size).data;
}

async function inFolder(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return found;
    for (const inner of part) if (inner.isFile) found.push(...(await inFolder(inner)));
  }
}

// Files of what was dropped: of a folder those directly in it.
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map(inFolder))).flat();
}

// {name: bytes} of the files with these names that are not too long to be what they say.
export async function contents(files, names, most) {
  const out = {};
  for (const file of files) {
    if (names.includes(file.name)) out[file.name] = new Uint8Array(await file.slice(0, most + 1).arrayBuffer());
  }
  return out;
}
