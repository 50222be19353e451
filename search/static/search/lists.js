"use strict";
/* Gives the cells of an admin's list the names of their columns: on a phone, each row is a card of named values. */
{
    const table = document.querySelector("#result_list");
    const names = [...(table?.tHead.rows[0].cells ?? [])].map((cell) => cell.querySelector(".text")?.textContent.trim());
    for (const row of table?.tBodies[0].rows ?? []) {
        [...row.cells].forEach((cell, column) => { cell.dataset.column = names[column] ?? ""; });
    }
}
