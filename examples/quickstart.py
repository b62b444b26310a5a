import os

from celery import Celery

from celery_minsched import MinSched

url = os.environ.get("BROKER", "redis://localhost:6379/0")
app = Celery("quickstart", broker=url, backend=url)
MinSched(app)


@app.task(bind=True, minsched={"pool": "asr"})
def transcribe(self, audio):
    return f"{audio}, by {self.request.minsched['node_id']}"


if __name__ == "__main__":
    demand = {"session_id": "u42", "src_lang": "zh", "tgt_lang": "en"}
    print(transcribe.apply_async(("speech.wav",), minsched=demand).get())
