// Pictures in the browser: what a file holds, what is shown of it, and what is sent.

const LONGEST = 1600; // pixels of a picture that is sent; a search looks at far fewer
const CROP_SIDE = 500; // pixels of the shorter side of what is cropped
const SMALL_BYTES = 2 * 1024 * 1024; // what is sent as it is, if it has few pixels too
const PREVIEW = 900; // pixels of a picture that is shown

/** Return the extension that belongs to what the file holds, "" where the server reads nothing of its kind. */
async function extensionOf(blob) {
    const bytes = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
    const text = String.fromCharCode(...bytes);
    if (text.startsWith("\xff\xd8\xff")) return "jpg";
    if (text.startsWith("\x89PNG")) return "png";
    if (text.startsWith("GIF8")) return "gif";
    if (text.startsWith("BM")) return "bmp";
    if (text.startsWith("II*\0") || text.startsWith("MM\0*")) return "tif";
    if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "webp";
    return "";
}

/** Return { blob, name, extension, bitmap }; bitmap is null where this browser cannot decode the file. */
export async function openPicture(blob, name) {
    const extension = await extensionOf(blob);
    let bitmap = null;
    try {
        bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" }); // upright
    } catch {
        // Left to the server, which reads kinds that browsers do not, such as TIFF.
    }
    return { blob, name, extension, bitmap };
}

export function canvasOf(picture) {
    return onWhite(drawn(picture.bitmap, PREVIEW));
}

/** Return the file to send, smaller where it is large; of a crop ({ x, y, w, h }, fractions) enough pixels stay. */
export async function fileToSend(picture, { crop = null, mostBytes = Infinity } = {}) {
    const { blob, bitmap, extension } = picture;
    if (!bitmap) return new File([blob], named(picture.name, extension), { type: blob.type });
    const whole = Math.max(bitmap.width, bitmap.height);
    const wanted = Math.max(LONGEST, neededFor(crop, bitmap));
    const isSmall = blob.size <= (wanted > LONGEST ? mostBytes : SMALL_BYTES);
    if (whole <= wanted && isSmall && extension) return new File([blob], named(picture.name, extension), { type: blob.type });
    const file = await drawnFile(picture, wanted);
    return file.size > mostBytes ? drawnFile(picture, LONGEST) : file;
}

/** Return the picture as it is sent, so that several take little memory. */
export async function shrunk(picture) {
    if (!picture.bitmap) return picture;
    const file = await fileToSend(picture);
    picture.bitmap.close();
    return openPicture(file, file.name);
}

/** Return how many pixels long a picture is to be whose crop is still looked at closely. */
function neededFor(crop, { width, height }) {
    if (!crop) return 0;
    const shorter = Math.min(crop.w * width, crop.h * height);
    return Math.ceil((Math.max(width, height) * CROP_SIDE) / shorter);
}

async function drawnFile(picture, longest) {
    const canvas = drawn(picture.bitmap, longest);
    // What is transparent stays so: the server decides what to lay it on.
    const [type, ending] = isTransparent(canvas) ? ["image/png", "png"] : ["image/jpeg", "jpg"];
    const sent = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.92));
    return new File([sent], named(picture.name, ending), { type });
}

function isTransparent(canvas) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let alpha = 3; alpha < data.length; alpha += 4) {
        if (data[alpha] < 255) return true;
    }
    return false;
}

function onWhite(canvas) {
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    return canvas;
}

function drawn(bitmap, longest) {
    const scale = Math.min(1, longest / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas;
}

/** Return the name with the extension of what the file holds: the server refuses one that says something else. */
function named(name, extension) {
    if (!extension) return name;
    const [, stem, ending] = /^(.*?)(?:\.([^.]*))?$/s.exec(name);
    const same = { jpeg: "jpg", tiff: "tif" };
    const given = (ending ?? "").toLowerCase();
    return (same[given] ?? given) === extension ? name : `${stem || "picture"}.${extension}`;
}

// Pictures that were searched with, so that going back shows them again: in memory, and for a reload in the session.

const kept = new Map();

/** picture: as openPicture() returns it, with an id. */
export async function keepPicture(picture) {
    kept.set(picture.id, picture);
    const file = await fileToSend(picture);
    const reader = new FileReader();
    await new Promise((resolve) => { reader.onloadend = resolve; reader.readAsDataURL(file); });
    const entry = JSON.stringify({ name: file.name, data: reader.result });
    while (!stored(`picture-${picture.id}`, entry)) {
        const oldest = Object.keys(sessionStorage).filter((key) => key.startsWith("picture-")).sort()[0];
        if (!oldest) return;
        sessionStorage.removeItem(oldest);
    }
}

function stored(key, text) {
    try {
        sessionStorage.setItem(key, text);
        return true;
    } catch {
        return false; // full
    }
}

/** Return the picture that was kept under this id, or null. */
export async function keptPicture(id) {
    if (kept.has(id)) return kept.get(id);
    const entry = sessionStorage.getItem(`picture-${id}`);
    if (!entry) return null;
    const { name, data } = JSON.parse(entry);
    const bytes = Uint8Array.from(atob(data.slice(data.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
    const picture = { ...(await openPicture(new Blob([bytes]), name)), id };
    kept.set(id, picture);
    return picture;
}
