package org.meanflow.nn.engine.cuda;

import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * Copies between the host and the device by way of page-locked memory, in order with the work of a
 * stream. An upload returns once its bytes lie in that memory; the device fetches them while the
 * host goes on.
 *
 * <p>Large uploads do not wait for the work that was queued before them: a stream of their own
 * brings them to a ring in device memory while the GPU computes, and in their turn they only have
 * to be copied from there. Both rings have the same parts, each used again once what followed it on
 * the stream of the work is done.
 */
final class Transfers implements AutoCloseable {
  private static final int PARTS = 8;
  private static final long PART_BYTES = 4L << 20;
  private static final int DISABLE_TIMING = 2;

  /** Less than this is fetched sooner than two streams have agreed. */
  private static final long LARGE_BYTES = 64 << 10;

  private final Cuda cuda;
  private final CudaStream stream;
  private final MemoryPool pool;
  private final long uploads;
  private final MemorySegment ring;

  /** The ring in device memory, once there was a large upload. */
  private @Nullable Block deviceRing;

  /** After the last upload beside the work. */
  private final long arrived;

  /** For each part of the ring, the event after which its uploads are done. */
  private final long[] events = new long[PARTS];

  private int part;
  private long used;

  Transfers(Cuda cuda, CudaStream stream, MemoryPool pool) {
    this.cuda = cuda;
    this.stream = stream;
    this.pool = pool;
    cuda.makeCurrent();
    uploads =
        cuda.longOf(
            out -> cuda.driver.cuStreamCreate(out, CudaStream.NON_BLOCKING), "cuStreamCreate");
    arrived = event();
    long address =
        cuda.longOf(
            out -> cuda.driver.cuMemAllocHost_v2(out, PARTS * PART_BYTES), "cuMemAllocHost");
    ring = MemorySegment.ofAddress(address).reinterpret(PARTS * PART_BYTES);
    for (int i = 0; i < PARTS; i++) {
      events[i] = event();
    }
  }

  private long event() {
    return cuda.longOf(out -> cuda.driver.cuEventCreate(out, DISABLE_TIMING), "cuEventCreate");
  }

  /** Copies all bytes of {@code source} to a device address. */
  void upload(MemorySegment source, long target) {
    stream.submit();
    cuda.makeCurrent();
    long done = 0;
    while (done < source.byteSize()) {
      if (used == PART_BYTES) {
        nextPart();
      }
      long bytes = Math.min(source.byteSize() - done, PART_BYTES - used);
      long offset = part * PART_BYTES + used;
      MemorySegment.copy(source, done, ring, offset, bytes);
      if (source.byteSize() < LARGE_BYTES) {
        fetch(offset, target + done, bytes, stream.handle());
      } else {
        fetchBeside(offset, target + done, bytes);
      }
      done += bytes;
      used = Math.min(PART_BYTES, (used + bytes + 63) & -64);
    }
  }

  private void fetch(long offset, long target, long bytes, long fetching) {
    cuda.check(
        cuda.driver.cuMemcpyHtoDAsync_v2(target, ring.address() + offset, bytes, fetching),
        "cuMemcpyHtoDAsync");
  }

  private void fetchBeside(long offset, long target, long bytes) {
    Block staging = deviceRing;
    if (staging == null) {
      staging = pool.allocate(PARTS * PART_BYTES);
      deviceRing = staging;
      // The memory may have been something else's, which work in the queue still uses.
      stream.finish();
    }
    DriverApi driver = cuda.driver;
    fetch(offset, staging.address + offset, bytes, uploads);
    cuda.check(driver.cuEventRecord(arrived, uploads), "cuEventRecord");
    cuda.check(driver.cuStreamWaitEvent(stream.handle(), arrived, 0), "cuStreamWaitEvent");
    cuda.check(
        driver.cuMemcpyDtoDAsync_v2(target, staging.address + offset, bytes, stream.handle()),
        "cuMemcpyDtoDAsync");
  }

  private void nextPart() {
    cuda.check(cuda.driver.cuEventRecord(events[part], stream.handle()), "cuEventRecord");
    part = (part + 1) % PARTS;
    // An event that was never recorded counts as done.
    cuda.check(cuda.driver.cuEventSynchronize(events[part]), "cuEventSynchronize");
    used = 0;
  }

  /** Copies from a device address into all of {@code target}, once all work is done. */
  void download(long source, MemorySegment target) {
    stream.submit();
    cuda.makeCurrent();
    long done = 0;
    while (done < target.byteSize()) {
      nextPart();
      long bytes = Math.min(target.byteSize() - done, PART_BYTES);
      long offset = part * PART_BYTES;
      cuda.check(
          cuda.driver.cuMemcpyDtoHAsync_v2(
              ring.address() + offset, source + done, bytes, stream.handle()),
          "cuMemcpyDtoHAsync");
      stream.finish();
      MemorySegment.copy(ring, offset, target, done, bytes);
      done += bytes;
    }
  }

  @Override
  public void close() {
    cuda.makeCurrent();
    for (long event : events) {
      cuda.check(cuda.driver.cuEventDestroy_v2(event), "cuEventDestroy");
    }
    cuda.check(cuda.driver.cuEventDestroy_v2(arrived), "cuEventDestroy");
    cuda.check(cuda.driver.cuStreamDestroy_v2(uploads), "cuStreamDestroy");
    cuda.check(cuda.driver.cuMemFreeHost(ring.address()), "cuMemFreeHost");
  }
}
