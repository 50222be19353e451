/* Small pictures of files that are only in this browser. */

/* Returns a canvas with the picture of a file, its longer side at most `side` pixels; null where it can't be shown. */
export async function draw(file, side) {
    try {
        const picture = await createImageBitmap(file);
        const scale = Math.min(1, side / Math.max(picture.width, picture.height));
        const canvas = document.createElement("canvas");
        canvas.width = Math.max(1, Math.round(picture.width * scale));
        canvas.height = Math.max(1, Math.round(picture.height * scale));
        canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
        picture.close();
        return canvas;
    } catch {
        return null;
    }
}
