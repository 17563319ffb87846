// ThreadPool: helper threads that any number of callers share. A parallel loop's caller works on it
// too, so a pool of one thread has no helpers and costs nothing.
//
// One pool serves all ranks of a local world. `threads` bounds the threads that work at once: while
// as many callers are inside parallel_for, no helper joins them, because the ranks keep the cores
// busy already. Idle helpers sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace wideep {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller: threads - 1 helpers are started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls body(i) once for every i in [0, count), in no particular order, on this thread and on
  // helpers that are free, and returns when all are done. May be called from several threads at
  // once, and from within a body. body must not throw. Allocates nothing.
  template <typename Body>
  void parallel_for(int count, const Body& body) {
    if (count <= 1 || size_ == 1) {
      for (int i = 0; i < count; ++i) body(i);
      return;
    }
    Job job;
    job.count = count;
    job.body = &body;
    job.run = [](const void* erased, int begin, int end) {
      const Body& typed = *static_cast<const Body*>(erased);
      for (int i = begin; i < end; ++i) typed(i);
    };
    run(job);
  }

 private:
  // One call of parallel_for; lives on its caller's stack and in the list jobs_ while it runs.
  struct Job {
    int count = 0;
    int chunk = 1;  // pieces claimed at a time
    const void* body = nullptr;
    void (*run)(const void* body, int begin, int end) = nullptr;
    std::atomic<int> next{0};      // the first piece that nobody has claimed
    std::atomic<int> helpers{0};   // inside this job; changed under mutex_
    std::condition_variable left;  // helpers became 0
    Job* newer = nullptr;
    Job* older = nullptr;
  };

  void run(Job& job);
  void help();
  static void work(Job& job);
  static bool has_work(const Job& job) {
    return job.next.load(std::memory_order_relaxed) < job.count;
  }
  // The rest needs mutex_.
  Job* oldest_with_work() const;
  void link(Job& job);
  void unlink(Job& job);

  const int size_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Job* newest_ = nullptr;
  Job* oldest_ = nullptr;
  int working_ = 0;  // callers and helpers inside a job
  int idle_ = 0;     // helpers that sleep and that nobody has called yet
  int called_ = 0;   // helpers that are to wake up
  bool stop_ = false;
  std::vector<std::thread> helpers_;
};

}  // namespace wideep
