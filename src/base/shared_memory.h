// Named memory that processes of a host share: files of /dev/shm, mapped. For weights that every
// rank of a node may copy from.
//
// A segment is named wideep_<pid>_<start time>_<what> after the process that made it, which removes
// it. What a killed process left is found by that name and removed by the next run: where no such
// process runs and nobody holds the segment's lock, which every process that has it open does (so
// that runs in other containers that share /dev/shm, whose pids say nothing here, are safe).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace wideep {

struct SharedMemoryOptions {
  // Ask for transparent huge pages. That the system knows none is an error; that its policy does
  // not grant them is said by SharedSegment::huge_page_note().
  bool huge_pages = false;
  // Where things are and what is called; tests put others in their place.
  std::string folder = "/dev/shm";
  std::string huge_page_folder = "/sys/kernel/mm/transparent_hugepage";
  std::function<int(void* data, size_t bytes, int advice)> advise = {};  // null: madvise
};

// One segment, mapped into this process.
class SharedSegment {
 public:
  SharedSegment() = default;
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;
  // Unmaps; in the process that created it, removes the name. Others' maps stay as they are.
  ~SharedSegment();

  const std::string& name() const { return name_; }  // for SharedMemory::open in another process
  // Zeros at first. Of a segment opened read-only, writing to it ends the process.
  std::span<std::byte> bytes() const { return {data_, size_}; }
  // Why pages are small although huge ones were asked for, and the command that changes it; "".
  const std::string& huge_page_note() const { return huge_page_note_; }
  // Removes the name now, once everybody has it open: then nothing can be left behind.
  void remove_name();

 private:
  friend class SharedMemory;

  std::string path_;  // "" where this process has no name to remove
  std::string name_;
  int owner_ = 0;  // process that removes the name; a fork of it does not
  int fd_ = -1;    // holds the lock
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string huge_page_note_;
};

// Makes and opens segments. Not thread-safe; one a process or rank.
class SharedMemory {
 public:
  struct Leftovers {
    int segments = 0;
    int64_t bytes = 0;  // of memory
  };
  enum class Access { kRead, kReadWrite };

  explicit SharedMemory(SharedMemoryOptions options = {});

  // Makes a segment of `bytes` >= 1, all of them reserved: nothing that is written to it later can
  // fail for lack of memory. what: letters, digits, '_', '-' and '.', once in a process. kIo names
  // the bytes wanted, the bytes free and the fix. The first call removes leftovers first.
  Result<SharedSegment> create(std::string_view what, int64_t bytes);
  // Maps a segment of any process by name; it must have `bytes` bytes.
  Result<SharedSegment> open(const std::string& name, int64_t bytes, Access access) const;

  // What the first create() removed.
  const Leftovers& leftovers() const { return leftovers_; }

 private:
  Result<SharedSegment> make_file(std::string_view what) const;
  Status check_free(const SharedSegment& segment, int64_t bytes) const;
  Status reserve(SharedSegment& segment, int64_t bytes) const;
  Status map(SharedSegment& segment, int64_t bytes, Access access) const;
  Status advise_huge_pages(SharedSegment& segment) const;
  Status no_room(const SharedSegment& segment, int64_t bytes) const;
  void remove_leftovers();

  SharedMemoryOptions options_;
  bool has_created_ = false;
  Leftovers leftovers_;
};

}  // namespace wideep
