// Fills the page from its data every two seconds, with the DataTables that Flower brings along.
// A hidden tab asks for nothing. Every text from the data goes through `text` or textContent.
(function () {
    "use strict";

    const PAUSE = 2000;  // ms between two looks
    const PATIENCE = 10000;  // ms for an answer
    const ROWS = 50;  // of a table, on a page

    const page = document.getElementById("minsched");
    const {source, pages, actions, refresh} = page.dataset;
    const tables = new Map();
    let timer = 0;
    let looks = 0;

    // ---- cells ----

    const text = (value) => String(value).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
    const missing = '<span class="value-missing">—</span>';
    const link = (to, of, shown) =>
        `<a href="${text(pages + to)}?of=${encodeURIComponent(of)}">${text(shown)}</a>`;
    const node = (id) => `<span class="${id.length > 12 ? "" : "text-nowrap"}">${link("node", id, id)}</span>`;
    const badge = (state) => `<span class="badge" data-state="${text(state)}">${text(state)}</span>`;
    const names = (list) => list.map((name) => `<span class="minsched-tag">${text(name)}</span>`).join(" ");

    function age(seconds) {
        const s = Number(seconds), part = (n, unit) => (n ? ` ${n} ${unit}` : "");
        if (s < 60) { return `${s} s`; }
        if (s < 3600) { return `${Math.floor(s / 60)} min${part(s % 60, "s")}`; }
        return `${Math.floor(s / 3600)} h${part(Math.floor(s % 3600 / 60), "min")}`;
    }

    const ago = (seconds) => `${age(seconds).split(" ", 2).join(" ")} ago`;  // its largest unit will do

    function slots(row) {
        const share = row.slots ? Math.min(row.taken / row.slots, 1) * 100 : 0;
        return `<div class="minsched-slots"><span class="minsched-bar${share >= 100 ? " full" : ""}">` +
            `<i style="width:${share}%"></i></span><span>${Number(row.taken)} / ${Number(row.slots)}</span></div>`;
    }

    function load(row) {
        const bars = Object.entries(row.load).map(([name, percent]) =>
            `<span class="minsched-load"><span>${text(name)}</span> <span class="minsched-bar"><i style="width:` +
            `${Math.min(Number(percent), 100)}%"></i></span> <span>${Number(percent)} %</span></span>`);
        return bars.join(" ") || missing;
    }

    // ---- columns: what to show, and what to sort and search by where that is another thing ----

    const natural = (id) => String(id).replace(/\d+/g, (digits) => digits.padStart(12, "0"));

    function column(title, show, by, className) {
        return {
            title,
            className: className || "",
            data: null,
            render: (row, type) => {
                if (type === "display") { return show(row); }
                return type === "sort" || type === "type" ? (by || show)(row) : show(row).replace(/<[^>]*>/g, " ");
            }
        };
    }

    // Of a table of which Flower sends the rows asked for, and sorts them by the column's name.
    const named = (name, title, show, className) => ({...column(title, show, null, className), name});

    const wide = "minsched-wide";
    const share = (row) => (row.slots ? row.taken / row.slots : 0);
    const sum = (row) => Object.values(row.load).reduce((all, x) => all + x, 0);
    const nodeColumn = {...column("Node", (row) => node(row.id), (row) => natural(row.id), "minsched-id"), name: "node"};
    const stateColumn = named("state", "State", (row) => badge(row.state));
    const slotsColumn = {...column("Slots", slots, share, "minsched-slots-cell"), name: "slots"};
    const loadColumn = {...column("Load", load, sum, wide), name: "load"};
    const taskColumn = column("Task", (row) => `${row.task ? text(row.task) : missing} <span class="minsched-task-id">` +
        `${row.task_id ? link("why", row.task_id, row.task_id) : ""}</span>`, null, "minsched-id");
    const act = (action, of, title) => `<button type="button" class="btn btn-sm btn-outline-secondary" ` +
        `data-action="${action}" data-of="${text(of)}">${title}</button>`;
    const action = (show) => (actions ? [{...column("", show, null, "text-end"), orderable: false}] : []);

    const COLUMNS = {
        nodes: [
            nodeColumn, stateColumn, slotsColumn, loadColumn,
            named("pools", "Pools", (row) => names(row.pools), wide),
            named("capabilities", "Capabilities", (row) => names(row.capabilities), wide),
            named("heard", "Heard", (row) => (row.silent < 3 ? "now" : ago(row.silent)), "text-nowrap " + wide),
            ...action((row) => (row.state === "draining" ? act("undrain", row.id, "Undrain")
                : ["free", "full"].includes(row.state) ? act("drain", row.id, "Drain") : ""))
        ],
        pools: [
            named("pool", "Pool", (row) => text(row.id), "minsched-id"),
            stateColumn, slotsColumn,
            named("waiting", "Waiting", (row) => row.waiting.toLocaleString(), "text-end"),
            named("load", "Load", (row) => row.load.toFixed(2), "text-end " + wide),
            named("online", "Nodes online", (row) => `${row.online} / ${row.nodes}`, "text-end " + wide),
            named("languages", "Languages", (row) => names(row.langs), wide),
            ...action((row) => (row.state === "paused" ? act("resume", row.id, "Resume") : act("pause", row.id, "Pause")))
        ],
        lines: [
            named("line", "Waits for", (row) => text(row.asks_for), "minsched-id"),
            stateColumn,
            named("jobs", "Jobs", (row) => row.waiting.toLocaleString(), "text-end"),
            named("oldest", "Oldest", (row) => age(row.age), "text-end")
        ],
        jobs: [
            taskColumn,
            column("Waits for", (row) => text(row.asks_for), null, "minsched-id " + wide),
            column("Place", (row) => row.place.toLocaleString(), (row) => row.place, "text-end"),
            column("Waits", (row) => age(row.age), (row) => row.age, "text-end"),
            column("Session", (row) => (row.session ? text(row.session) : missing), null, "minsched-id " + wide)
        ],
        held: [
            taskColumn,
            column("State", (row) => badge(row.state)),
            column("For", (row) => age(row.age), (row) => row.age, "text-end"),
            column("Session", (row) => (row.session ? text(row.session) : missing), null, "minsched-id " + wide)
        ],
        events: [
            column("When", (row) => `<time title="${new Date(row.ts).toISOString()}">${ago(row.age)}</time>`,
                (row) => -row.ts, "text-nowrap"),
            column("What", (row) => `<span class="badge" data-state="${text(row.state)}">` +
                `${text(row.state.replace("_", " "))}</span>`),
            column("Of", (row) => Object.entries(row.fields).map(([name, value]) =>
                `<span class="minsched-field">${text(name.replace("_ts", "").replace("_", " "))}</span> ` +
                (name === "node" || name === "from" ? node(value)
                    : name === "task" && value ? link("why", value, value)
                    : name.endsWith("_ts") ? new Date(Number(value)).toLocaleTimeString()
                    : text(value))).join(" "), null, "minsched-id")
        ],
        candidates: [
            nodeColumn,
            column("In the way", (row) => (row.fits ? badge("nothing") : text(row.state)), null, "minsched-id"),
            slotsColumn, loadColumn
        ]
    };
    const ORDER = {nodes: [[1, "asc"], [0, "asc"]], pools: [[0, "asc"]], lines: [[3, "desc"]]};

    // DataTables takes data attributes for options of its own, so ours have other names than these.
    function makeTable(element) {
        const name = element.dataset.table, searches = "find" in element.dataset;
        const table = {shown: "", asked: null, deliver: null, answer: null};
        tables.set(name, table);
        table.api = $(element).DataTable({
            columns: COLUMNS[element.dataset.as || name],
            order: ORDER[name] || [],
            autoWidth: false,
            deferRender: true,
            lengthChange: false,
            pageLength: ROWS,
            searching: searches,
            searchDelay: 300,
            dom: searches ? "ftip" : "tip",
            ...("paged" in element.dataset ? {serverSide: true, ajax: (...request) => ask(table, ...request)} : {}),
            language: {
                info: "_START_ to _END_ of _TOTAL_",
                infoEmpty: "",
                infoFiltered: "(of _MAX_ in all)",
                search: `<span class="visually-hidden">${text(element.dataset.find || "")}</span>`,
                searchPlaceholder: element.dataset.hint || "",
                emptyTable: '<span class="minsched-loading">…</span>',
                zeroRecords: "Nothing matches."
            },
            drawCallback: function () {
                const {recordsTotal, length} = this.api().page.info();
                $(this).closest(".dataTables_wrapper").toggleClass("minsched-one-page", recordsTotal <= length);
            }
        });
    }

    // ---- paging: DataTables asks for rows, and the next look brings them ----

    function ask(table, request, deliver) {
        table.asked = request;
        table.deliver = deliver;
        if (table.answer) { give(table); } else if (looks) { look(); }
    }

    function give(table) {
        const {deliver, answer} = table;
        table.deliver = table.answer = null;
        deliver({...answer, draw: table.asked.draw});
    }

    function fillPaged(table, rows, [recordsFiltered, recordsTotal]) {
        const now = JSON.stringify([rows, recordsFiltered, recordsTotal]);
        if (now === table.shown && !table.deliver) { return; }
        table.shown = now;
        table.answer = {data: rows, recordsFiltered, recordsTotal};
        if (table.deliver) {
            give(table);
        } else {
            table.api.draw(false);
        }
        if (!rows.length && recordsFiltered && table.asked.start) {  // the page is gone
            table.api.page("first").draw("page");
        }
    }

    function query() {
        const asked = [...tables.values()].map((table) => table.asked).find(Boolean);
        if (!asked) { return ""; }
        const {columns, order: [by], search, start, length} = asked;
        return "&" + new URLSearchParams({
            offset: start, limit: length, find: search.value,
            ...(by ? {sort: columns[by.column].name, descending: by.dir === "desc" ? 1 : 0} : {})
        });
    }

    // ---- filling ----

    const FORMS = {
        age: (place, value) => { place.textContent = age(value); },
        ago: (place, value) => { place.textContent = ago(value); },
        state: (place, value) => { place.textContent = value; place.dataset.state = value; },
        node: (place, value) => { place.innerHTML = value ? node(value) : ""; }
    };

    function fill(answer) {
        Object.entries(answer.texts || {}).forEach(([name, value]) => {
            page.querySelectorAll(`[data-text="${name}"]`).forEach((place) => {
                const put = FORMS[place.dataset.form];
                if (put) { put(place, value); } else { place.textContent = value === "" ? "—" : value; }
                const row = place.closest(".detail-row");
                if (row) { row.hidden = value === ""; }
            });
        });
        Object.entries(answer.lists || {}).forEach(([name, sentences]) => {
            const list = page.querySelector(`[data-list="${name}"]`);
            list.replaceChildren(...sentences.map((sentence) =>
                Object.assign(document.createElement("li"), {textContent: sentence})));
        });
        tables.forEach((table, name) => {
            const rows = (answer.tables || {})[name] || [], numbers = (answer.numbers || {})[name];
            const focused = document.activeElement.dataset;
            table.api.settings()[0].oLanguage.sEmptyTable = text(table.api.table().node().dataset.none);
            if (numbers) { fillPaged(table, rows, numbers); } else { fillTable(table, rows); }
            keepFocus(focused);
        });
    }

    function fillTable(table, rows) {
        const now = JSON.stringify(rows);
        if (now === table.shown) { return; }
        table.shown = now;
        table.api.clear().rows.add(rows);
        table.api.draw(false);
    }

    function keepFocus(focused) {
        if (focused.action && !document.activeElement.dataset.action) {  // a button that had the keyboard keeps it
            page.querySelector(`[data-action="${focused.action}"][data-of="${CSS.escape(focused.of)}"]`)?.focus();
        }
    }

    function tell(works, status, error) {
        document.getElementById("minsched-dot").className =
            `status-dot status-dot-${works ? "live" : "error"}`;
        document.getElementById("minsched-status").textContent = status;
        const place = document.getElementById("minsched-error");
        place.hidden = !error;
        place.textContent = error || "";
    }

    // A full address, without the password that the page's own may have: none to fetch from.
    const at = (path) => new URL(path, window.location.origin).href;

    async function look() {
        window.clearTimeout(timer);
        timer = 0;
        const number = ++looks;
        try {
            const answer = await fetch(at(source + query()), {
                headers: {Accept: "application/json"},
                signal: AbortSignal.timeout(PATIENCE)
            });
            if (number !== looks) { return; }  // a later one asks for other rows
            if (!(answer.headers.get("Content-Type") || "").startsWith("application/json")) {
                tell(false, "Update failed", `Flower answered ${answer.status}. Reload the page.`);
            } else if (!answer.ok) {
                tell(false, "Update failed", (await answer.json()).error);
            } else if (!document.getSelection().isCollapsed && ![...tables.values()].some((table) => table.deliver)) {
                tell(true, "Held while text is selected");
            } else {
                fill(await answer.json());
                tell(true, `Updated ${new Date().toLocaleTimeString()}`);
            }
        } catch (error) {
            if (number !== looks) { return; }
            tell(false, "Update failed", "Flower does not answer. Does it run, and are you logged in?");
        }
        later();
    }

    function later() {
        if (refresh === "1" && !document.hidden && !timer) {
            timer = window.setTimeout(look, PAUSE);
        }
    }

    document.addEventListener("visibilitychange", () => {
        window.clearTimeout(timer);
        timer = 0;
        if (!document.hidden && refresh === "1") { look(); }
    });

    // $.ajax, since Flower's script has it send the token against requests from other sites.
    page.addEventListener("click", (event) => {
        const {action, of} = event.target.dataset;
        if (!action) { return; }
        $.ajax({type: "POST", url: at(actions + action), data: {of}})
            .done(look)
            .fail((answer) => tell(false, "Refused", answer.responseText || "Flower does not answer."));
    });

    page.querySelectorAll("table[data-table]").forEach(makeTable);
    look();
}());
