// A worker in Go with net/http alone: fetch with a long poll, heartbeat, ack, drain at SIGTERM.
//
//	OJS_URL=http://localhost:8080 go run .
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const concurrency = 10

// Job is what a handler needs of a fetched job.
type Job struct {
	ID      string            `json:"id"`
	Type    string            `json:"type"`
	Args    []json.RawMessage `json:"args"`
	LeaseID string            `json:"lease_id"`
	cancel  context.CancelFunc
}

// A Handler's result becomes that of the job. An error fails the attempt, and the retry policy
// repeats it, unless it is ErrFinal. The context is cancelled when the lease is lost.
type Handler func(ctx context.Context, job *Job) (any, error)

// ErrFinal marks errors after which another attempt would be useless.
var ErrFinal = errors.New("not retryable")

var handlers = map[string]Handler{"text.upper": upper}

func upper(ctx context.Context, job *Job) (any, error) {
	var order struct {
		Text    string  `json:"text"`
		Seconds float64 `json:"seconds"`
	}
	if err := json.Unmarshal(job.Args[0], &order); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFinal, err)
	}
	select { // the work
	case <-time.After(time.Duration(order.Seconds * float64(time.Second))):
		return strings.ToUpper(order.Text), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Worker holds the jobs that run now.
type Worker struct {
	url, id string
	lease   time.Duration
	client  http.Client
	stop    func()
	quiet   atomic.Bool // whether an operator has stopped the fetches of this worker
	mu      sync.Mutex
	held    map[string]*Job // by lease
	ended   sync.WaitGroup
	slots   chan struct{}
}

type object = map[string]any

// errLost is the answer to an ack or nack whose lease another worker has by now.
var errLost = errors.New("the lease is lost")

func (w *Worker) post(ctx context.Context, path string, body object, reply any) error {
	body["worker_id"] = w.id
	return w.send(ctx, "POST", path, body, reply)
}

func (w *Worker) send(ctx context.Context, method, path string, body object, reply any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, w.url+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if key := os.Getenv("OJS_API_KEY"); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := w.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusConflict:
		return errLost
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answered %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(reply)
}

// run calls the handler of a job and reports its end. A report may be repeated: the server
// recognizes it by its lease.
func (w *Worker) run(ctx context.Context, job *Job) {
	defer w.ended.Done()
	defer func() { <-w.slots }()
	path, body := "/ack", object{"job_id": job.ID, "lease_id": job.LeaseID}
	handler := handlers[job.Type]
	if handler == nil {
		handler = func(context.Context, *Job) (any, error) {
			return nil, fmt.Errorf("%w: no handler for %s", ErrFinal, job.Type)
		}
	}
	if result, err := handler(ctx, job); err == nil {
		body["result"] = result
	} else {
		path = "/nack"
		body["error"] = object{"message": err.Error(), "retryable": !errors.Is(err, ErrFinal)}
	}
	for tries := 0; tries < 10; tries++ {
		err := w.post(context.Background(), path, body, &struct{}{})
		if err == nil || errors.Is(err, errLost) {
			break
		}
		log.Printf("job %s: %v", job.ID, err)
		time.Sleep(time.Second)
	}
	w.mu.Lock()
	delete(w.held, job.LeaseID)
	w.mu.Unlock()
	job.cancel()
}

// beat keeps the leases of all jobs, and cancels the handlers of those that are lost.
func (w *Worker) beat(ctx context.Context) error {
	w.mu.Lock()
	leases, ids := map[string]string{}, []string{}
	for lease, job := range w.held {
		leases[job.ID] = lease
		ids = append(ids, job.ID)
	}
	w.mu.Unlock()
	var reply struct {
		Extended []string `json:"jobs_extended"`
		State    string   `json:"state"`
	}
	body := object{
		"active_jobs": ids, "leases": leases, "visibility_timeout_ms": w.lease.Milliseconds(),
	}
	if err := w.post(ctx, "/heartbeat", body, &reply); err != nil {
		return err
	}
	for _, id := range reply.Extended {
		delete(leases, id)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, lease := range leases {
		if job := w.held[lease]; job != nil {
			job.cancel()
		}
	}
	w.quiet.Store(reply.State == "quiet")
	if reply.State == "terminate" {
		w.stop()
	}
	return nil
}

// leave removes the worker from the list of workers, where it would stay for a time.
func (w *Worker) leave(ctx context.Context) error {
	body := object{"state": "terminate", "active_jobs": []string{}}
	if err := w.post(ctx, "/heartbeat", body, &struct{}{}); err != nil {
		return err
	}
	return w.send(ctx, "DELETE", "/"+url.PathEscape(w.id), object{}, &struct{}{})
}

// fetch waits for jobs and starts them. It is not cancelled at SIGTERM: the server could have sent
// jobs, which would then wait until their leases end.
func (w *Worker) fetch() error {
	w.slots <- struct{}{} // wait for a free slot
	<-w.slots
	free := concurrency - len(w.slots)
	var reply struct {
		Jobs []*Job `json:"jobs"`
	}
	body := object{
		"queues": []string{"texts-go"}, "count": free,
		"wait_ms": 2000, "visibility_timeout_ms": w.lease.Milliseconds(),
	}
	if err := w.post(context.Background(), "/fetch", body, &reply); err != nil {
		return err
	}
	for _, job := range reply.Jobs {
		ctx, cancel := context.WithCancel(context.Background())
		job.cancel = cancel
		w.mu.Lock()
		w.held[job.LeaseID] = job
		w.mu.Unlock()
		w.slots <- struct{}{}
		w.ended.Add(1)
		go w.run(ctx, job)
	}
	return nil
}

func main() {
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	server := os.Getenv("OJS_URL")
	if server == "" {
		server = "http://localhost:8080"
	}
	lease := 30 * time.Second
	if ms, err := strconv.Atoi(os.Getenv("LEASE_MS")); err == nil {
		lease = time.Duration(ms) * time.Millisecond
	}
	host, _ := os.Hostname()
	worker := &Worker{
		url:    server + "/ojs/v1/workers",
		id:     fmt.Sprintf("%s-%d-%d", host, os.Getpid(), time.Now().UnixNano()),
		lease:  lease,
		client: http.Client{Timeout: 20 * time.Second},
		stop:   stop,
		held:   map[string]*Job{},
		slots:  make(chan struct{}, concurrency),
	}
	drained, silent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(silent)
		for tick := time.NewTicker(lease / 6); ; {
			select {
			case <-tick.C:
				if err := worker.beat(context.Background()); err != nil {
					log.Printf("heartbeat failed: %v", err)
				}
			case <-drained:
				return
			}
		}
	}()
	log.Printf("worker %s started", worker.id)
	for stopping.Err() == nil {
		if worker.quiet.Load() {
			time.Sleep(time.Second)
			continue
		}
		if err := worker.fetch(); err != nil {
			log.Printf("fetch failed: %v", err)
			time.Sleep(time.Second)
		}
	}
	log.Print("drains")
	worker.ended.Wait()
	close(drained)
	<-silent // a heartbeat after the removal would add the worker again
	if err := worker.leave(context.Background()); err != nil {
		log.Printf("the worker stays listed: %v", err)
	}
}
