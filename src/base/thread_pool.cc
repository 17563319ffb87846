#include "base/thread_pool.h"

#include <algorithm>

#include "base/check.h"

namespace wideep {

ThreadPool::ThreadPool(int threads) : size_(threads) {
  CHECK_GE(threads, 1);
  helpers_.reserve(threads - 1);
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    CHECK(oldest_ == nullptr);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::run(Job& job) {
  // About eight claims a thread even out pieces of unequal cost without a claim for each.
  job.chunk = std::max(1, job.count / (8 * size_));
  int woken = 0;
  {
    const std::lock_guard lock(mutex_);
    link(job);
    ++working_;
    woken = std::max(0, std::min({job.count - 1, idle_, size_ - working_}));
    idle_ -= woken;
    called_ += woken;
  }
  for (int i = 0; i < woken; ++i) wake_.notify_one();
  work(job);
  std::unique_lock lock(mutex_);
  unlink(job);  // from here on no helper joins
  --working_;
  job.left.wait(lock, [&] { return job.helpers.load(std::memory_order_relaxed) == 0; });
}

void ThreadPool::work(Job& job) {
  for (;;) {
    const int begin = job.next.fetch_add(job.chunk, std::memory_order_relaxed);
    if (begin >= job.count) return;
    job.run(job.body, begin, std::min(begin + job.chunk, job.count));
  }
}

void ThreadPool::help() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    Job* job = working_ < size_ ? oldest_with_work() : nullptr;
    if (job == nullptr) {
      ++idle_;
      wake_.wait(lock, [&] { return stop_ || called_ > 0; });
      --called_;
      continue;
    }
    job->helpers.fetch_add(1, std::memory_order_relaxed);
    ++working_;
    lock.unlock();
    work(*job);
    lock.lock();
    --working_;
    // Under the lock, so that the caller cannot return, and the job end, before the notification.
    if (job->helpers.fetch_sub(1, std::memory_order_relaxed) == 1) job->left.notify_one();
  }
}

ThreadPool::Job* ThreadPool::oldest_with_work() const {
  for (Job* job = oldest_; job != nullptr; job = job->newer) {
    if (has_work(*job)) return job;
  }
  return nullptr;
}

void ThreadPool::link(Job& job) {
  job.older = newest_;
  (newest_ != nullptr ? newest_->newer : oldest_) = &job;
  newest_ = &job;
}

void ThreadPool::unlink(Job& job) {
  (job.newer != nullptr ? job.newer->older : newest_) = job.older;
  (job.older != nullptr ? job.older->newer : oldest_) = job.newer;
}

}  // namespace wideep
