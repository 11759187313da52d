#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <sys/random.h>
#include <linux/fs.h>
#include <string.h>
#include <stdint.h>
#include <stdlib.h>
#include <pthread.h>
static double cpu(){struct timespec t;clock_gettime(CLOCK_PROCESS_CPUTIME_ID,&t);return t.tv_sec*1e6+t.tv_nsec/1e3;}
static double thr(){struct timespec t;clock_gettime(CLOCK_THREAD_CPUTIME_ID,&t);return t.tv_sec*1e6+t.tv_nsec/1e3;}
#define B(name,n,code) {double a=thr();for(int i=0;i<n;i++){code;}printf("%-40s %.3f us\n",name,(thr()-a)/n);}
static volatile int stop;
void* spin(void*p){while(!stop){for(volatile int i=0;i<100000;i++);}return 0;}
int main(int c,char**v){
 if(c>1){pthread_t t;pthread_create(&t,0,spin,0);printf("with another busy thread of the process\n");usleep(100000);}
 struct timespec t; char buf[8192]; memset(buf,7,8192);
 B("clock_gettime THREAD_CPUTIME",200000,clock_gettime(CLOCK_THREAD_CPUTIME_ID,&t));
 B("clock_gettime MONOTONIC",200000,clock_gettime(CLOCK_MONOTONIC,&t));
 B("getrandom 16",100000,getrandom(buf,16,0));
 B("getppid (bare syscall)",200000,getppid());
 int fd=open("/tmp/perfw/f",O_RDWR|O_CREAT|O_TRUNC,0600);
 for(int i=0;i<4096;i++)pwrite(fd,buf,4096,i*4096L);
 B("pwrite 24 in cache",50000,pwrite(fd,buf,24,(i%4000)*4120L));
 B("pwrite 4096 unaligned in cache",50000,pwrite(fd,buf,4096,(i%4000)*4120L+24));
 B("pwrite 4120",50000,pwrite(fd,buf,4120,(i%4000)*4120L));
 B("pread 4096",50000,pread(fd,buf,4096,(i%4000)*4120L+24));
 int e=eventfd(0,0);uint64_t one=1;
 B("eventfd write",50000,write(e,&one,8));
 char*m=mmap(0,64<<20,PROT_NONE,MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE,-1,0);
 mprotect(m,17*65536,PROT_READ|PROT_WRITE);
 int pm=open("/proc/self/pagemap",O_RDONLY);
 struct page_region r[32];
 for(int k=0;k<12;k++)m[k<3?(252+k)*4096:(258+k)*4096]=1;
 B("PAGEMAP_SCAN 17 wasm pages,12 dirty",50000,{struct pm_scan_arg a={.size=sizeof a,.start=(uintptr_t)m,.end=(uintptr_t)m+17*65536,.vec=(uintptr_t)r,.vec_len=32,.max_pages=256,.category_inverted=PAGE_IS_PFNZERO|PAGE_IS_FILE,.category_mask=PAGE_IS_WRITTEN|PAGE_IS_PRESENT|PAGE_IS_PFNZERO|PAGE_IS_FILE};int x=ioctl(pm,PAGEMAP_SCAN,&a);if(x<0){perror("scan");exit(1);}});
 B("mprotect grow+shrink 1 page touched",20000,{mprotect(m+17*65536,65536,PROT_READ|PROT_WRITE);m[17*65536]=1;mprotect(m+17*65536,65536,PROT_NONE);});
 B("madvise DONTNEED 12 pages + refault",20000,{for(int k=0;k<12;k++)m[(258+k)*4096]=1;madvise(m+258*4096,12*4096,MADV_DONTNEED);});
 B("memset 48K",50000,{memset(m+252*4096,i,12*4096);asm volatile(""::"r"(m):"memory");});
 stop=1;
}
