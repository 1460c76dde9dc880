"""The fixed parts of the standalone script: code of ours, the same in every export that has them."""

ROWS = '''
def read_rows(path, sha256=None):
    """The rows of a JSON-lines file, all of one kind: text; prompt and completion; or messages."""
    content = Path(path).read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{path} is not the file this was planned for: its sha256 is another")
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig")
    rows = [json.loads(line) for line in lines if line.strip()]
    for columns in (("messages",), ("prompt", "completion"), ("text",)):
        if all(column in row for row in rows for column in columns):
            return columns, [{column: row[column] for column in columns} for row in rows]
    raise SystemExit(f"{path}: every row needs text, prompt and completion, or messages")


def dataset(columns, rows):
    """Rows as SFTTrainer takes them. Of a conversation, the last answer is what is learned, under any chat template."""
    if columns == ("messages",):
        rows = [{"messages": [{"role": m["role"], "content": m["content"]} for m in row["messages"]]} for row in rows]
        if COMPLETION_ONLY:
            rows = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
    return Dataset.from_list(rows)
'''

SAMPLER = '''
class LongestFirst:
    """The longest rows first, the others shuffled, later epochs shuffled throughout: what does not fit fails at once,
    and the measured step is the largest there is."""

    def __init__(self, lengths, head, seed):
        self.lengths, self.head, self.seed, self.epoch = lengths, head, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.lengths)

    def __iter__(self):
        order = list(range(len(self.lengths)))
        random.Random(f"{self.seed}-{self.epoch}").shuffle(order)
        if self.epoch:
            return iter(order)
        longest = sorted(order, key=lambda row: -self.lengths[row])[: self.head]
        chosen = set(longest)
        return iter([*longest, *(row for row in order if row not in chosen)])
'''

CAST = '''
def cast_adapter(model, dtype):
    """Adapter weights in the planned dtype, whatever PEFT and trl have made of them; DoRA's magnitudes stay fp32."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32 if "lora_magnitude_vector" in name else dtype)
'''

TRAINER = '''
class PlannedTrainer(SFTTrainer):
    """SFTTrainer, with the longest rows first and its phases marked."""

    batch = None

    def _get_train_sampler(self, train_dataset=None):
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LongestFirst(lengths, head=(MEASURED_STEP + 1) * step, seed=self.args.seed)

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.batch = inputs["input_ids"].shape, inputs["labels"], inputs.get("attention_mask")
        phases.enter("forward")
        return super().training_step(model, inputs, num_items_in_batch)

    def _clip_grad_norm(self, model):
        phases.enter("optimizer_step")
        return super()._clip_grad_norm(model)

    def evaluate(self, *args, **options):
        phases.enter("evaluation")
        metrics = super().evaluate(*args, **options)
        phases.leave()
        return metrics
'''

STANDARD_LOSS = '''
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss on full logits, not trl's fused head."""
        return Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)
'''

RANKS = """
    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        started = self.accelerator.num_processes, self.accelerator.distributed_type.name
        if started != (WORLD_SIZE, DISTRIBUTED_TYPE):
            raise SystemExit(f"planned as {DISTRIBUTED_TYPE} of {WORLD_SIZE}, and accelerate made {started} of it")
"""

MAIN = """
def main():
    # Everything random hangs on this: the adapter's start, the order of rows, dropout.
    set_seed(SEED)
    columns, rows = read_rows(places.data, DATA_SHA256)
    held_out = dataset(*read_rows(places.eval_data)) if places.eval_data else None
    phases.enter("load")
    args = arguments(completions=columns != ("text",))  # before the model: processes meet here
    tokenizer = AutoTokenizer.from_pretrained(places.model, trust_remote_code=False, **ORIGIN)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if places.chat_template:
        tokenizer.chat_template = Path(places.chat_template).read_text(encoding="utf-8")
    if columns == ("messages",) and not tokenizer.chat_template:
        raise SystemExit("the rows are messages, and this model's tokenizer has no chat template")
    trainer = PlannedTrainer(
        model=load_model(),
        args=args,
        train_dataset=dataset(columns, rows),
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[report],
    )
    after_trainer(trainer.model)
    phases.watch(trainer.model)
    report.trainer = trainer
    phases.leave()
    if held_out is not None and EVALUATES_BEFORE:
        report.facts["eval_loss_before"] = trainer.evaluate()["eval_loss"]
    trainer.train()
    if held_out is not None:
        report.facts["eval_loss_after"] = trainer.evaluate()["eval_loss"]
    phases.enter("save")
    trainer.save_model(places.output_dir)
    phases.leave()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    status, failure = "failed", None
    try:
        main()
        status = "done"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"[:500]
        raise
    finally:
        report.write(status, failure)
"""
